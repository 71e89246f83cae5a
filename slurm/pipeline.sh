#!/usr/bin/env bash
# Every stage as a job that waits for the one before it. Run it on the login node, in the repository:
#
#   bash slurm/pipeline.sh                                       the sample world
#   bash slurm/pipeline.sh books /data/029*                      a corpus of one's own, and its name
#   bash slurm/status.sh                                         how far they are; --wait follows them to the end
#
# PRETRAIN="--nodes=2 --gpus-per-node=8 --ntasks-per-node=8" and PREPARE="-c 32" (tokenizer, packing) are flags for sbatch,
# JOBS=64 is the width of the corpus' arrays, CONFIG= the config of pretraining; CHAT=mine.jsonl adds fine-tuning. Where one
# stage fails, those that wait for it are cancelled, and status.sh prints why.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v sbatch >/dev/null || { echo "pipeline.sh: there is no sbatch here: this is for the login node of a Slurm cluster; elsewhere: make demo" >&2; exit 1; }
# shellcheck source=slurm/common.sh
. slurm/common.sh pipeline login

read -ra prepare <<<"${PREPARE:-}"
read -ra pretrain <<<"${PRETRAIN:-}"
after=()
submit() { # STAGE [sbatch flags --] arguments
    local stage=$1 flags=() job
    shift
    while [ "$1" != -- ]; do flags+=("$1"); shift; done
    shift
    job=$(sbatch --parsable --kill-on-invalid-dep=yes ${after[@]+"${after[@]}"} ${flags[@]+"${flags[@]}"} "slurm/$stage.sh" "$@")
    remember "$stage" "${job%%;*}"
}
remember() { # STAGE JOB
    echo "$1 $2"
    after=("--dependency=afterok:$2")
    # Slurm forgets a job within minutes of its end, where its log lay, too
    echo "$1 $2 $(scontrol show job "$2" | sed -n 's/^ *StdErr=//p' | sed -n 1p)" >>"$chain"
}

name=${1:-sample}
chain=$root/.chain
mkdir -p "$root"
: >"$chain"
corpus=() tokenizer=() pack=() train=() tune=()
if [ $# -gt 0 ]; then
    shift
    [ $# -gt 0 ] || { echo "pipeline.sh: behind the name goes what to read: bash slurm/pipeline.sh $name /data/029*" >&2; exit 2; }
    corpus=(--sources "$@" --name "$name")
    tokenizer=(--config configs/tokenizer/books.yaml --corpus "$name" --name "$name")
    pack=(--config configs/pack/books.yaml --corpus "$name" --tokenizer "$name" --name "$name")
    train=(--packed "$name" --name "$name")
    tune=(--model "$name" --name "$name-chat")
fi
if [ -n "${CONFIG:-}" ]; then train+=(--config "$CONFIG"); fi

job=$(bash slurm/corpus.sh ${corpus[@]+"${corpus[@]}"}) # several arrays; it names the job that publishes
if [ -n "$job" ]; then
    read -ra arrays <"$root/corpus/.work-$name/jobs" || true # it ends without a newline
    for each in "${arrays[@]}"; do [ "$each" = "$job" ] || remember corpus "$each" >/dev/null; done
    remember corpus "$job"
fi
submit tokenizer ${prepare[@]+"${prepare[@]}"} -- ${tokenizer[@]+"${tokenizer[@]}"}
submit pack ${prepare[@]+"${prepare[@]}"} -- ${pack[@]+"${pack[@]}"}
submit pretrain ${pretrain[@]+"${pretrain[@]}"} -- ${train[@]+"${train[@]}"}
if [ "$name" = sample ] || [ -n "${CHAT:-}" ]; then
    submit finetune ${pretrain[@]+"${pretrain[@]}"} -- ${tune[@]+"${tune[@]}"}
fi
echo "bash slurm/status.sh says how far they are, and why where one fails"
