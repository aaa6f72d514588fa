{{ shebang }}
{#
  The script of a job on a host that is reached by SSH. Copy it, change it, and name your copy in `template:`.
  The names that it may use are the fields of SSHContext; in the shell, always by {{ value | q }}. Its one argument is a
  private directory, which holds this script and, as worker.json, what the workers need to join.
#}

# A job of the hpccluster cluster {{ cluster | q }}. Lines "hpccluster: stage ..." tell how far it came.
hpc_directory=$1
hpc_say() { printf 'hpccluster: %s\n' "$*" >&2; }
hpc_say "stage started $(uname -n) $(date '+%Y-%m-%dT%H:%M:%S%z')"

# Standard input is a life line: whoever owns this job says a byte every few seconds. When it ends, or when nothing comes
# for {{ silence }} seconds (a network that was cut tells nobody), the workers are told to leave; after a while, or when
# this shell has ended, what is left of the process group that it leads is ended, and the directory removed.
exec 3<&0 </dev/null
(
    trap '' HUP INT
    hpc_over=
    trap 'hpc_over=yes' USR1
    # Not every system has `timeout`; without perl, too, only the end of the life line is noticed, and no silence.
    if command -v timeout; then
        hpc_within() { timeout "$@"; }
    elif command -v perl; then
        hpc_within() { perl -e 'alarm shift; exec @ARGV' "$@"; }
    else
        hpc_within() { shift; "$@"; }
    fi
    hpc_listen() { hpc_within {{ silence }} dd bs=1 count=1 <&3; }
    while [ -z "$hpc_over" ] && [ -n "$(hpc_listen)" ]; do :; done
    trap '' USR1 TERM
    kill -s 0 -- "-$$" || hpc_alone=yes
    if [ -z "$hpc_over" ]; then
        : >"$hpc_directory/unheard"
        kill -s TERM "$$"
    fi
    hpc_tries=60
    while [ "$hpc_tries" -gt 0 ] && kill -s 0 "$$"; do
        sleep 0.1
        hpc_tries=$((hpc_tries - 1))
    done
    rm -rf -- "$hpc_directory"
    [ -n "${hpc_alone:-}" ] || kill -s KILL -- "-$$"
) >/dev/null 2>&1 &
hpc_watcher=$!
exec 3<&-
trap 'rm -rf -- "$hpc_directory"; kill -s USR1 "$hpc_watcher" 2>/dev/null' EXIT

# What workers and tasks leave in $TMPDIR goes with the job.
mkdir -m 700 "$hpc_directory/tmp" && export TMPDIR="$hpc_directory/tmp"

{% if working_directory %}
cd {{ working_directory | q }} 2>/dev/null || hpc_say 'not on this host, so the job stays at home:' {{ working_directory | q }}
{% endif %}
{% if prologue %}
# job_script_prologue
{% for line in prologue %}
{{ line }}
{% endfor %}

{% endif %}
hpc_say 'stage prologue-ok'
export HPCCLUSTER_JOB={{ name | q }}
export HPCCLUSTER_CONNECTION_FILE="$hpc_directory/worker.json"
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
    if [ -e "$hpc_directory/unheard" ]; then hpc_say 'nothing is heard any more of who owns this job: it ends'; fi
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
