{{ shebang }}
{#
  The job script for task-spooler, run by `sh`. Copy it, change it, and name your copy in `template:`. The names that it may
  use are the fields of TemplateContext; in the shell, always by {{ value | q }}.
#}
exec </dev/null >>{{ (log_path or '/dev/null') | q }} 2>&1

# A job of the hpccluster cluster {{ cluster | q }}. Lines "hpccluster: stage ..." tell how far it came.
hpc_say() { printf 'hpccluster: %s\n' "$*" >&2; }
hpc_say "stage started $(uname -n) $(date '+%Y-%m-%dT%H:%M:%S%z')"
trap 'exit 143' TERM # `tsp -k`
{% if working_directory %}
cd {{ working_directory | q }} || exit
{% endif %}

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

# task-spooler knows neither a walltime nor an end by force: timeout does (0: no limit). It runs in the background, so that
# this shell hears what it is told: `tsp -k` tells the whole process group.
timeout --foreground --kill-after=5 {{ walltime_seconds or 0 }} {{ command | map('q') | join(' ') }} &
hpc_child=$!
hpc_told=
trap 'hpc_signalled=yes hpc_told=yes' TERM INT HUP
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
trap '' TERM
kill -s TERM -- "-$$" 2>/dev/null # what the workers have left behind
[ -z "$hpc_told" ] || exit 143 # task-spooler does not remember that the end was asked for
exit "$hpc_code"
