#!/usr/bin/env bash
#SBATCH --job-name=narae-pack
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# A corpus -> rows of token ids.
#
#   bash slurm/pack.sh --config configs/pack/books.yaml --jobs 32      on the login node: an array of jobs with one core each
#   sbatch -c 32 slurm/pack.sh --config configs/pack/books.yaml        one job on one node
#
# On the login node it prints the id of the job that publishes, for --dependency=afterok:ID. The corpus and the tokenizer must
# be there when it is called. The same command goes on after whatever stopped it: parts that are done are not done again.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit
[ -f slurm/common.sh ] || cd .. # typed inside slurm/
# shellcheck source=slurm/common.sh
. slurm/common.sh pack login || exit
jobs=()
if [ -z "${SLURM_JOB_ID:-}" ]; then jobs=(--jobs "${JOBS:-16}"); fi

exec "${alone[@]}" pretrain/pack.py ${jobs[@]+"${jobs[@]}"} "$@"
