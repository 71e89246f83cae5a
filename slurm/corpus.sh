#!/usr/bin/env bash
#SBATCH --job-name=narae-corpus
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Sources -> a cleaned corpus, on one node:   sbatch -c 32 slurm/corpus.sh --sources /data/029* --name books
# Without arguments: the sample, written first where it is missing.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit
[ -f slurm/common.sh ] || cd .. # typed inside slurm/
# shellcheck source=slurm/common.sh
. slurm/common.sh

if [ $# = 0 ] && [ ! -d "${NARAE_ARTIFACTS:-artifacts}/sample/sample" ]; then "$python" corpus/sample.py; fi
exec "$python" corpus/collect.py "$@"
