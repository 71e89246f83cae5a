#!/usr/bin/env bash
#SBATCH --job-name=narae-pretrain
#SBATCH --nodes=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#SBATCH --signal=B:USR1@180
#
# Rows -> a model:   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 slurm/pretrain.sh --config configs/pretrain/books-1.3b.yaml
# What follows the script goes to pretrain/run.py. 180 s before the time limit it saves, and the job queues again.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit
[ -f slurm/common.sh ] || cd .. # typed inside slurm/
# shellcheck source=slurm/common.sh
. slurm/common.sh pretrain || exit

case " $* " in *" --deepspeed"*) ;; *) set -- --deepspeed configs/ds/zero2.json "$@" ;; esac
train pretrain/run.py "$@"
