{{ shebang }}
{#
  The script of a local job, run by `/bin/sh` in a session of its own. Copy it, change it, and name your copy in `template:`.
  The names that it may use are the fields of TemplateContext; in the shell, always by {{ value | q }}.
#}

# A job of the hpccluster cluster {{ cluster | q }}. Lines "hpccluster: stage ..." tell how far it came.
hpc_say() { printf 'hpccluster: %s\n' "$*" >&2; }
hpc_say "stage started $(uname -n) $(date '+%Y-%m-%dT%H:%M:%S%z')"

# Standard input is a pipe that nobody writes to: it ends when the process that started this job ends, however it ends.
# Then the workers are told to leave, and after a while what is left of the process group that this shell leads is ended.
exec 3<&0 </dev/null
(
    trap '' HUP INT USR1 USR2
    while read -r _ <&3; do :; done
    kill -s 0 -- "-$$" 2>/dev/null || hpc_alone=yes
    trap '' TERM
    kill -TERM "$$"
    sleep 5
    [ -n "${hpc_alone:-}" ] || kill -s KILL -- "-$$"
) &
hpc_watcher=$!
exec 3<&-
trap 'kill "$hpc_watcher" 2>/dev/null' EXIT

{% if prologue %}
# job_script_prologue
{% for line in prologue %}
{{ line }}
{% endfor %}

{% endif %}
hpc_say 'stage prologue-ok'
export HPCCLUSTER_JOB={{ name | q }}
{% for variable, value in environment %}
export {{ variable }}={{ value | q }}
{% endfor %}

if ! command -v {{ command[0] | q }} >/dev/null 2>&1; then
    hpc_say 'python not found:' {{ command[0] | q }}
    exit 127
fi

# The workers run in the background, so that this shell can tell them to leave (TERM) when it is told.
{{ command | map('q') | join(' ') }} &
hpc_child=$!
# shellcheck disable=SC2317 # called by trap
hpc_forward() {
    hpc_signalled=yes
    kill -TERM "$hpc_child" 2>/dev/null
}
trap hpc_forward TERM INT HUP USR1 USR2
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
exit "$hpc_code"
