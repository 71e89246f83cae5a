#!/usr/bin/env bash
#SBATCH --job-name=narae-tokenizer
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# A corpus -> a tokenizer, on one node:   sbatch -c 32 slurm/tokenizer.sh --config configs/tokenizer/books.yaml
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit
[ -f slurm/common.sh ] || cd .. # typed inside slurm/
# shellcheck source=slurm/common.sh
. slurm/common.sh tokenizer || exit

exec "${alone[@]}" tokenizer/train.py "$@"
