#!/usr/bin/env bash
#SBATCH --job-name=narae-finetune
#SBATCH --nodes=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#SBATCH --signal=B:USR1@180
#
# A model and questions -> a chat model:   CHAT=mine.jsonl sbatch slurm/finetune.sh --model books --name books-chat
# What follows the script goes to finetune/sft.py. CHAT becomes its examples first; without arguments the sample's do.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit
[ -f slurm/common.sh ] || cd .. # typed inside slurm/
# shellcheck source=slurm/common.sh
. slurm/common.sh finetune || exit

if [ -n "${CHAT:-}" ]; then
    examples=$(basename "${CHAT%%.*}")
    "${alone[@]}" finetune/prepare.py --source "$CHAT" --name "$examples"
    set -- "$@" --examples "$examples"
elif [ $# = 0 ]; then
    "${alone[@]}" finetune/prepare.py
fi
case " $* " in *" --deepspeed"*) ;; *) set -- --deepspeed configs/ds/zero2.json "$@" ;; esac
train finetune/sft.py "$@"
