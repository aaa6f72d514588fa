{{ shebang }}
{#
  The job script for OpenPBS, PBS Pro and Torque, submitted to `qsub` by standard input. Copy it, change it, and name your copy
  in `template:`. The names that it may use are the fields of TemplateContext and PBSContext; an unset one is false.
  In a directive, a value is put in as it is (it was checked before); in the shell, always by {{ value | q }}.
  PBS takes every line that begins with its prefix for a directive, comments too, up to the first command.
#}
#PBS -N {{ name }}
#PBS -j oe
#PBS -o "{{ output_path }}"
{% if keep_files %}
#PBS -k {{ keep_files }}
{% endif %}
{% if queue %}
#PBS -q {{ queue }}
{% endif %}
{% if account %}
#PBS -A {{ account }}
{% endif %}
{% if project %}
#PBS -P {{ project }}
{% endif %}
{% if resources %}
#PBS -l {{ resources }}
{% endif %}
{% if total_memory %}
#PBS -l mem={{ total_memory }}
{% endif %}
{% if place %}
#PBS -l place={{ place }}
{% endif %}
{% if walltime %}
#PBS -l walltime={{ walltime }}
{% endif %}
{% if requeue %}
#PBS -r {{ requeue }}
{% endif %}
{% if umask %}
#PBS -W umask={{ umask }}
{% endif %}
{% if shell %}
#PBS -S {{ shell }}
{% endif %}
{% if mark %}
#PBS -v HPCCLUSTER_MARK={{ mark }}
{% endif %}
{% for directive in extra_directives %}
#PBS {{ directive }}
{% endfor %}

# A job of the hpccluster cluster {{ cluster | q }}. Lines "hpccluster: stage ..." tell how far it came.
hpc_say() { printf 'hpccluster: %s\n' "$*" >&2; }
{% if live_path %}
# PBS writes the output to its place at once, where the nodes know that as a path of theirs ($usecp). Elsewhere it keeps the
# output until the job has ended, and puts it there then: until that, it is to be seen beside it.
# shellcheck disable=SC3013 # an sh that does not know -ef writes there, too
if ! [ /dev/fd/1 -ef {{ log_path | q }} ] && true 2>/dev/null >>{{ live_path | q }}; then exec >>{{ live_path | q }} 2>&1; fi
{% endif %}
{% if output_path != log_path %}
# PBS delivers the output of a job when it has ended: this shows it while it runs.
if true 2>/dev/null >>{{ log_path | q }}; then exec >>{{ log_path | q }} 2>&1; fi
{% endif %}
hpc_say "stage started $(uname -n) $(date '+%Y-%m-%dT%H:%M:%S%z')"
# jobs start in the home directory
{% if working_directory %}
cd {{ working_directory | q }} || hpc_say 'it is not on this node:' {{ working_directory | q }}
{% else %}
cd "${PBS_O_WORKDIR:-.}" || hpc_say "it is not on this node: ${PBS_O_WORKDIR:-}"
{% endif %}

{% if prologue %}
# job_script_prologue
{% for line in prologue %}
{{ line }}
{% endfor %}

{% endif %}
hpc_say 'stage prologue-ok'
export HPCCLUSTER_JOB={{ name | q }}
{% if processes > 1 and threads %}
# OpenPBS sets it to the cores of the whole job, which its workers share
export OMP_NUM_THREADS={{ threads }}
{% endif %}
{% for variable, value in environment %}
export {{ variable }}={{ value | q }}
{% endfor %}

if ! command -v {{ command[0] | q }} >/dev/null 2>&1; then
    hpc_say 'python not found:' {{ command[0] | q }}
    exit 127
fi

# The workers run in the background, so that this shell lives on until they have left. PBS signals all processes of a job;
# where only this one is told, it tells them.
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
{% if mark %}

# 75: there is no head any more, so the cluster's other jobs are of no use either. The mark tells this cluster from another
# one of the same name.
if [ "$hpc_code" -eq 75 ]; then
    hpc_say 'no head: cancelling the other jobs of this cluster'
    # nodes need not have the commands on their PATH
    hpc_exec=$(sed -n 's/^PBS_EXEC=//p' "${PBS_CONF_FILE:-/etc/pbs.conf}" 2>/dev/null)
    PATH="$PATH:${hpc_exec:-/opt/pbs}/bin"
    hpc_ids=$(qselect -u "${PBS_O_LOGNAME:-$(id -un)}" 2>/dev/null)
    # shellcheck disable=SC2086 # ids, a word each
    [ -z "$hpc_ids" ] || qstat -f $hpc_ids 2>/dev/null |
        awk -v prefix={{ name_prefix | q }} -v mark={{ mark | q }} '
            function tell() {
                number = substr(name, length(prefix) + 1)
                if (index(name, prefix) == 1 && number ~ /^[0-9a-f]+$/ &&
                    index("," variables ",", ",HPCCLUSTER_MARK=" mark ",")) print id
                id = name = variables = ""
            }
            /^Job Id:/ { tell(); id = $3 }
            /^\t/ && last == "Job_Name" { name = name substr($0, 2) }
            /^\t/ && last == "Variable_List" { variables = variables substr($0, 2) }
            /^ / { last = $1 }
            /^ +Job_Name = / { sub(/^ +Job_Name = /, ""); name = $0 }
            /^ +Variable_List = / { sub(/^ +Variable_List = /, ""); variables = $0 }
            END { tell() }' |
        while read -r hpc_id; do
            [ "${hpc_id%%.*}" = "${PBS_JOBID%%.*}" ] || qdel "$hpc_id"
        done
fi
{% endif %}
exit "$hpc_code"
