#!/usr/bin/env bash
#SBATCH --job-name=narae-corpus
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Sources -> a cleaned corpus. Without arguments: the sample, written first where it is missing.
#
#   bash slurm/corpus.sh --sources /data/029* --name books --jobs 64      on the login node: arrays of jobs with one core each
#   sbatch -c 32 slurm/corpus.sh --sources /data/029* --name books        one job on one node
#
# On the login node it prints the id of the job that publishes, for --dependency=afterok:ID. The same command goes on after
# whatever stopped it: pieces that are done are not done again.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit
[ -f slurm/common.sh ] || cd .. # typed inside slurm/
# shellcheck source=slurm/common.sh
. slurm/common.sh corpus login || exit
jobs=()
if [ -z "${SLURM_JOB_ID:-}" ]; then jobs=(--jobs "${JOBS:-16}"); fi

if [ $# = 0 ] && [ ! -d "$root/sample/sample" ]; then "${alone[@]}" corpus/sample.py; fi
exec "${alone[@]}" corpus/collect.py ${jobs[@]+"${jobs[@]}"} "$@"
