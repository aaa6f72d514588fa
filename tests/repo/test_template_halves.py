"""Every template is a whole file that a person can copy and read; what several of them say alike is the same to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/hpccluster-taskspooler/src/hpccluster_taskspooler/taskspooler.sh"
TEMPLATES = {path.stem: path.read_text() for path in [*(ROOT / "templates/hpccluster_templates").glob("*.sh"), EXAMPLE]}

BEGINNING = """
# A job of the hpccluster cluster {{ cluster | q }}. Lines "hpccluster: stage ..." tell how far it came.
"""
PROLOGUE = """
{% if prologue %}
# job_script_prologue
{% for line in prologue %}
{{ line }}
{% endfor %}

{% endif %}
hpc_say 'stage prologue-ok'
export HPCCLUSTER_JOB={{ name | q }}
"""
ENVIRONMENT = """
{% for variable, value in environment %}
export {{ variable }}={{ value | q }}
{% endfor %}

if ! command -v {{ command[0] | q }} >/dev/null 2>&1; then
    hpc_say 'python not found:' {{ command[0] | q }}
    exit 127
fi
"""
WAITING = """
hpc_code=
while :; do
    hpc_signalled=
    wait "$hpc_child"
    hpc_waited=$?
    # 127: the child had ended, and its code was told, just before a signal came
    if [ "$hpc_waited" -ne 127 ] || [ -z "$hpc_code" ]; then hpc_code=$hpc_waited; fi
    [ -n "$hpc_signalled" ] || break
done
hpc_say "workers ended with exit code $hpc_code"
{% if epilogue %}

# job_script_epilogue
{% for line in epilogue %}
{{ line }}
{% endfor %}
{% endif %}
"""


@pytest.mark.parametrize(
    "part", [BEGINNING, PROLOGUE, ENVIRONMENT, WAITING], ids=["beginning", "prologue", "environment", "waiting"]
)
def test_what_templates_share_is_the_same_in_all(part: str) -> None:
    assert len(TEMPLATES) >= 5
    assert [name for name, text in TEMPLATES.items() if text.count(part) != 1] == []
