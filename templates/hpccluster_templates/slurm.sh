{{ shebang }}
{#
  The job script for Slurm, submitted to `sbatch --parsable` by standard input. Copy it, change it, and name your copy in
  `template:`. The names that it may use are the fields of TemplateContext and SlurmContext; an unset one is false.
  In a directive, a value is put in as it is (it was checked before); in the shell, always by {{ value | q }}.
#}
#SBATCH --job-name={{ name }}
#SBATCH --output="{{ log_path }}"
#SBATCH --open-mode=append
{% if comment %}
#SBATCH --comment="{{ comment }}"
{% endif %}
{% if queue %}
#SBATCH --partition={{ queue }}
{% endif %}
{% if account %}
#SBATCH --account={{ account }}
{% endif %}
{% if qos %}
#SBATCH --qos={{ qos }}
{% endif %}
{% if reservation %}
#SBATCH --reservation={{ reservation }}
{% endif %}
{% if nodes %}
#SBATCH --nodes={{ nodes }}
{% endif %}
{% if tasks %}
#SBATCH --ntasks={{ tasks }}
{% endif %}
{% if cpus %}
#SBATCH --cpus-per-task={{ cpus }}
{% endif %}
{% if memory %}
#SBATCH {{ memory_directive }}={{ memory }}
{% endif %}
{% if gres %}
#SBATCH --gres={{ gres }}
{% endif %}
{% if constraint %}
#SBATCH --constraint={{ constraint }}
{% endif %}
{% if exclude %}
#SBATCH --exclude={{ exclude }}
{% endif %}
{% if walltime %}
#SBATCH --time={{ walltime }}
{% endif %}
{% if signal %}
#SBATCH --signal={{ signal }}
{% endif %}
{% if requeue %}
#SBATCH {{ requeue }}
{% endif %}
{% if working_directory %}
#SBATCH --chdir="{{ working_directory }}"
{% endif %}
{% for directive in extra_directives %}
#SBATCH {{ directive }}
{% endfor %}

# A job of the hpccluster cluster {{ cluster | q }}. Lines "hpccluster: stage ..." tell how far it came.
hpc_say() { printf 'hpccluster: %s\n' "$*" >&2; }
hpc_say "stage started ${SLURMD_NODENAME:-$(uname -n)} $(date '+%Y-%m-%dT%H:%M:%S%z')"

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

# The workers run in the background, so that this shell can tell them to leave (TERM) when Slurm tells it.
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
{% if comment %}

# 75: there is no head any more, so the cluster's other jobs are of no use either. The comment tells this cluster from
# another one of the same name.
if [ "$hpc_code" -eq 75 ]; then
    hpc_say 'no head: cancelling the other jobs of this cluster'
    squeue --me --noheader --format='%i|%j|%k' 2>/dev/null | while IFS='|' read -r hpc_id hpc_name hpc_comment; do
        hpc_number=${hpc_name#{{ name_prefix | q }}}
        case $hpc_number in "$hpc_name" | '' | *[!0-9a-f]*) continue ;; esac
        [ "$hpc_comment" = {{ comment | q }} ] || continue
        [ "$hpc_id" = "${SLURM_JOB_ID:-}" ] || scancel "$hpc_id"
    done
fi
{% endif %}
exit "$hpc_code"
