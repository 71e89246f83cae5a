# Sourced by the scripts here: where the repository is, what the site needs, how ranks start.
# shellcheck shell=bash
set -euo pipefail

# shellcheck source=slurm/site.env
. slurm/site.env
stop() { echo "$(basename "$0"): $*" >&2; exit 1; }

if [ -z "${SLURM_JOB_ID:-}" ]; then stop "this is a job for a compute node: sbatch slurm/$(basename "$0")"; fi
python=${NARAE_PYTHON:-$PWD/.venv/bin/python}
[ -x "$python" ] || stop "there is no $python: make install (on the login node, once)"

# A node with GPUs in a job that asked for none would train on its CPU for days. $1: the script, to print the remedy.
check_gpus() {
    local there given=${SLURM_GPUS_ON_NODE:-0} tasks=${SLURM_NTASKS_PER_NODE:-1}
    there=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) || true
    if [ "$there" -gt 0 ] && [ "$given" = 0 ]; then
        stop "$(hostname) has $there GPUs, the job has none: sbatch --gpus-per-node=$there --ntasks-per-node=$there slurm/$1.sh"
    fi
    if [ "$given" -gt "$tasks" ]; then
        stop "$given GPUs on a node but $tasks processes: sbatch --gpus-per-node=$given --ntasks-per-node=$given slurm/$1.sh"
    fi
}

# train NAME SCRIPT ARGUMENTS: one process per task, no launcher. Before the time limit (USR1) and at a preemption (TERM)
# the ranks are told; they save and end with 85, and the job goes back into the queue to go on from there.
train() {
    local name=$1 code=0 step
    shift
    check_gpus "$name"
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
    OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${OMP_NUM_THREADS:-1}}
    export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS
    # from Slurm 22.05 on srun does not take this over from sbatch
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

    # shellcheck disable=SC2016  # the rank is known inside srun only
    srun --kill-on-bad-exit=1 bash -c \
        'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS; exec "$@"' ranks "$python" "$@" &
    step=$!
    trap 'signalled=1; kill -USR1 $step' USR1 TERM
    signalled=0
    while :; do
        code=0
        wait $step || code=$?
        kill -0 $step 2>/dev/null || break # a signal ends `wait`, not the step
    done
    if [ $code = 85 ] || { [ $signalled = 1 ] && [ $code != 0 ]; }; then
        echo "$name: job $SLURM_JOB_ID goes back into the queue, and then on from its newest checkpoint" >&2
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
    exit $code
}
