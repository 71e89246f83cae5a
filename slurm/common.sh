# Sourced by the scripts here, with the script's name: what the site needs, where Python is, how ranks start and go on.
# shellcheck shell=bash disable=SC2034 # alone is for the scripts
set -euo pipefail

stage=$1
note() { echo "slurm/$stage.sh: $*" >&2; }
stop() { note "$@"; exit 1; }
# A signal that comes early must not end the script: the job would count as failed.
signalled=''
trap 'signalled=USR1' USR1
trap 'signalled=TERM' TERM

set +eu +o pipefail # modules and conda are not written for these
# shellcheck source=slurm/site.env
. slurm/site.env
set -euo pipefail
if [ -z "${SLURM_JOB_ID:-}" ] && [ "${2:-}" != login ]; then
    stop "this is a job for a compute node: sbatch slurm/$stage.sh"
fi
root=${NARAE_ARTIFACTS:-$PWD/artifacts}
python=${NARAE_PYTHON:-$PWD/.venv/bin/python}
read -ra more <<<"${NARAE_SRUN:-}"     # flags for srun, e.g. Pyxis' --container-image
read -ra box <<<"${NARAE_CONTAINER:-}" # words in front of Python, e.g. apptainer exec
# of a node; of the smallest, where they differ: 64(x2),32
cpus=$(tr ',' '\n' <<<"${SLURM_JOB_CPUS_PER_NODE:-1}" | sed 's/(.*//' | sort -n | sed -n 1p)
alone=("$python") # what the scripts put in front of a stage that is one process
if [ -z "${SLURM_JOB_ID:-}" ] || [ ${#more[@]} -eq 0 ] && [ ${#box[@]} -eq 0 ]; then
    [ -x "$python" ] || stop "there is no $python: make install (on the login node, once)"
elif [ ${#more[@]} -eq 0 ]; then
    alone=("${box[@]}" "$python")
else
    alone=(srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" "${more[@]}" ${box[@]+"${box[@]}"} "$python")
fi

# The sbatch line that would have been right. $1: its flags; then what follows the script.
remedy() {
    local line="sbatch $1"
    shift
    [ "$SLURM_NNODES" = 1 ] || line+=" --nodes=$SLURM_NNODES"
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || line+=" --cpus-per-task=$SLURM_CPUS_PER_TASK"
    [ -z "${SLURM_JOB_PARTITION:-}" ] || line+=" --partition=$SLURM_JOB_PARTITION"
    printf '%s slurm/%s.sh' "$line" "$stage"
    if [ $# -gt 0 ]; then printf ' %q' "$@"; fi
}

# check_gpus PROCESSES ARGUMENTS. A node with GPUs in a job that asked for none would train on its CPU for days; a GPU
# without a process idles; processes on one CPU wait for each other.
check_gpus() {
    local there given=${SLURM_GPUS_ON_NODE:-0} each=$1
    shift
    there=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) || true
    if [ "$there" -gt 0 ] && [ "$given" = 0 ]; then
        [ "$stage" != demo ] || there=1
        stop "$(hostname) has GPUs, the job has none: $(remedy "--gpus-per-node=$there --ntasks-per-node=$there" "$@")"
    fi
    if [ "$given" != 0 ] && [ "$given" != "$each" ]; then
        stop "$given GPUs on a node but $each processes: $(remedy "--gpus-per-node=$given --ntasks-per-node=$given" "$@")"
    fi
    if [ "$each" -gt "$cpus" ]; then
        stop "$cpus CPUs on a node for $each processes: $(remedy "--gpus-per-node=$given --ntasks-per-node=$each" "$@")"
    fi
}

# train SCRIPT ARGUMENTS: one process per task, by srun alone. Before the time limit (USR1) and at a preemption (TERM) the
# ranks are told; they save and end with 85.
train() {
    local each=${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
    check_gpus "$each" "${@:2}"
    local cores=${SLURM_CPUS_PER_TASK:-$((cpus / each))}
    MASTER_ADDR=${NARAE_MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)}
    # Another one after each restart, so that nothing which is left of the last attempt can call
    MASTER_PORT=${NARAE_MASTER_PORT:-$((20000 + (SLURM_JOB_ID + 1009 * ${SLURM_RESTART_COUNT:-0}) % 12000))}
    export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-${OMP_NUM_THREADS:-$cores}}"
    run=$(run_of "$@")
    # The code of the rank that fails first. srun says the highest, and the ranks that it ends itself have the highest.
    ended=$root/.ended-$SLURM_JOB_ID
    mkdir -p "$root"
    rm -f "$ended"
    [ -z "$signalled" ] || back "it got $signalled before it began"

    # shellcheck disable=SC2016  # the rank is known inside srun only
    srun --kill-on-bad-exit=1 --nodes="$SLURM_NNODES" --ntasks=$((each * SLURM_NNODES)) --ntasks-per-node="$each" \
        --cpus-per-task="$cores" ${more[@]+"${more[@]}"} bash -c '
            export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
            case ${CUDA_VISIBLE_DEVICES:-,} in *,*) ;; *) LOCAL_RANK=0 ;; esac # --gpus-per-task shows it one GPU
            trap : USR1 TERM # Python hears them, too
            ended=$1 code=0
            shift
            "$@" || code=$?
            [ $code = 0 ] || (set -C; echo "$RANK $SLURMD_NODENAME $code" >"$ended") 2>/dev/null
            exit $code' ranks "$ended" ${box[@]+"${box[@]}"} "$python" "$@" &
    watch $!
}

# Seconds: before the time limit, when nothing can be saved any more; and until srun must have returned from a failure
last_moment=10
kill_wait=$(scontrol show config 2>/dev/null | sed -n 's/^KillWait *= *\([0-9]*\).*/\1/p') || true
patience=$((${kill_wait:-30} + 20))

# watch STEP: until it ends, or will not end.
watch() {
    local step=$1 code=0 limit='' since=''
    trap 'signalled=USR1; kill -USR1 '"$step"' 2>/dev/null || true' USR1
    trap 'signalled=TERM; kill -USR1 '"$step"' 2>/dev/null || true' TERM
    while kill -0 "$step" 2>/dev/null; do
        sleep 1 &
        wait $! || true # a signal ends it early
        if [ -n "$signalled" ]; then
            [ -n "$limit" ] || fewer # if Slurm takes the job back, for a node or for more urgent work
            limit=${limit:-$(end_of_time)}
            [ "$(date +%s)" -lt $((limit - last_moment)) ] ||
                back "$last_moment s before the end of its time its ranks still run, though they got $signalled"
        fi
        if [ -e "$ended" ]; then
            since=${since:-$SECONDS}
            [ $(((SECONDS - since) % 5)) -lt 4 ] || lost
            [ $((SECONDS - since)) -lt $patience ] || back "$(told), and srun has not returned after $patience s"
        fi
    done
    wait "$step" || code=$?
    decide $code
}

# decide CODE: 85 asks for another start, 128+n was killed by signal n; the rest is a mistake or a bug, and would come again.
decide() {
    local code=$1
    [ "$code" != 0 ] || { rm -f "$ended"; exit 0; }
    if [ -s "$ended" ]; then code=$(cut -d ' ' -f 3 "$ended"); fi
    lost
    if [ -n "$signalled" ]; then back "it got $signalled"; fi
    if [ "$code" = 85 ] || [ "$code" -gt 128 ]; then back "$(told)"; fi
    note "job $SLURM_JOB_ID ends here: $(told), which another start would not mend; the reason stands above"
    rm -f "$ended"
    exit "$code"
}

told() {
    local rank host code
    if ! read -r rank host code <"$ended" 2>/dev/null; then
        echo "no rank could say how it ended"
    elif [ "$code" -gt 128 ]; then
        echo "rank $rank on $host was killed by signal $((code - 128))"
    else
        echo "rank $rank on $host ended with code $code"
    fi
}

# Back, where the slurmd of one of the job's nodes does not answer: srun would wait for it, and its ranks for each other.
lost() {
    local node address port
    port=$(scontrol show config | sed -n 's/^SlurmdPort *= *\([0-9]*\).*/\1/p')
    for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
        address=$(scontrol show node "$node" | tr ' ' '\n' | sed -n 's/^NodeAddr=//p')
        timeout 5 bash -c ": </dev/tcp/${address:-$node}/${port:-6818}" 2>/dev/null || back "$node does not answer ($(told))"
    done
}

# In seconds since 1970. A job without a limit has no such time; one that scancel ends has it behind itself.
end_of_time() {
    if [ "$(show JobState)" = COMPLETING ] || ! date -d "$(show EndTime)" +%s 2>/dev/null; then echo 9999999999; fi
}

show() { scontrol show job "$SLURM_JOB_ID" | tr ' ' '\n' | sed -n "s/^$1=//p" | sed -n 1p; }

# back WHY: the job goes back into the queue, to go on from its newest checkpoint.
back() {
    local try said=''
    trap '' USR1 TERM # Slurm sends it as soon as the job is taken back
    # By scancel, or to requeue it by itself: a job that a person has cancelled must stay so
    if [ "$(show JobState)" = COMPLETING ]; then note "Slurm ends job $SLURM_JOB_ID itself"; rm -f "$ended"; fewer; exit 85; fi
    note "job $SLURM_JOB_ID goes back into the queue: $1. It will go on from $(newest)"
    rm -f "$ended"
    for try in 1 2 3 4 5; do
        if said=$(scontrol requeue "$SLURM_JOB_ID" 2>&1); then fewer; exit 0; fi
        case $said in *disabled*) break ;; esac # by --no-requeue; else the controller may be away for a moment
        [ "$try" = 5 ] || sleep 5
    done
    note "Slurm does not take it back: $said (was it submitted with --no-requeue?). The same sbatch line goes on"
    exit 85
}

# Slurm holds on to the number of tasks that the job had, and would wait for as many nodes, whatever --nodes=1-2 said.
fewer() {
    [ -z "${SLURM_NTASKS_PER_NODE:-}" ] ||
        scontrol update jobid="$SLURM_JOB_ID" numtasks="$SLURM_NTASKS_PER_NODE" 2>/dev/null || true
}

run_of() {
    while [ $# -gt 1 ]; do
        case $1 in --name) echo "$2" ;; --name=*) echo "${1#*=}" ;; esac
        shift
    done
}

newest() {
    local found=''
    if [ -n "$run" ]; then found=$(compgen -G "$root/runs/$run/checkpoint-*" | sort -V | tail -n 1) || true; fi
    if [ -n "$found" ]; then basename "$found"; elif [ -n "$run" ]; then echo "its beginning"; else echo "its newest checkpoint"; fi
}
