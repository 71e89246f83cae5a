#!/usr/bin/env bash
# bash bench/gpu.sh [--dry-run] [--minutes 8] [--out FOLDER] [--only WORDS …]      all options: bash bench/gpu.sh --help
#
# A whole visit to a graphics card in one call: see bench/gpu.py, which does the work.
set -euo pipefail
home=$(cd "$(dirname "$0")/.." && pwd)
torch='import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))'
# The first Python that has torch: the one that is named, the clone's own, then those on the path
for python in "${NARAE_PYTHON:-}" "$home/.venv/bin/python" python python3; do
    if [ -n "$python" ] && "$python" -c "$torch" 2>/dev/null; then
        export PYTHONPATH="$home${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
        export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
        exec "$python" "$home/bench/gpu.py" "$@"
    fi
done
echo "bench/gpu.sh: no Python here has torch: NARAE_PYTHON=/path/to/python bash bench/gpu.sh" >&2
exit 1
