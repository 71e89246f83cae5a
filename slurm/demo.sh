#!/usr/bin/env bash
#SBATCH --job-name=narae-demo
#SBATCH --nodes=1
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# make demo inside a job, never on a login node:   sbatch -c 8 slurm/demo.sh      one GPU: sbatch --gpus-per-node=1 slurm/demo.sh
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit
[ -f slurm/common.sh ] || cd .. # typed inside slurm/
# shellcheck source=slurm/common.sh
. slurm/common.sh demo || exit

check_gpus "${SLURM_GPUS_ON_NODE:-1}"
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK; fi
exec "${alone[@]}" narae/chain.py demo
