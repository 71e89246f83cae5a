#!/usr/bin/env bash
# Makes .venv with everything that Narae needs, each package at the version in constraints.txt.
#
#   bash install.sh        to train and to generate
#   bash install.sh dev    and what the tests and checks need
#
# PYTHON=python3.12 chooses the interpreter. PyTorch is kept where it is there already: an active virtual environment
# that has it is installed into (.venv becomes a link to it), on any other interpreter that has it .venv is laid on top.
set -euo pipefail
cd "$(dirname "$0")"

PYTHON=${PYTHON:-python3}
EXTRA=${1:-}
say() { echo "install: $*" >&2; }
stop() { say "$*"; exit 1; }

# ---- the interpreter
command -v "$PYTHON" >/dev/null ||
    stop "there is no '$PYTHON': apt install python3 python3-venv (3.11 or later), or name one: make PYTHON=/path/to/python3"
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    remedy="apt install python3.11 python3.11-venv (or conda create -n narae python=3.12), then make PYTHON=python3.11"
    for newer in python3.11 python3.12 python3.13 python3.14; do
        if "$newer" -c '' 2>/dev/null; then remedy="make PYTHON=$newer"; fi
    done
    stop "$("$PYTHON" --version 2>&1) is too old, Narae needs 3.11 or later: $remedy"
fi
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# ---- has it torch? Then which, and is it in an active virtual environment?
active=$("$PYTHON" -c 'import sys; print(sys.prefix if sys.prefix != sys.base_prefix else "")')
torch_of() { "$1" -c 'import torch; print(torch.__version__)' 2>/dev/null | tail -n 1 || true; }
torch=
if [ "$active" != "$PWD/.venv" ]; then torch=$(torch_of "$PYTHON"); fi
if [ -n "$torch" ] &&
    ! "$PYTHON" -c 'import sys; sys.exit([int(n) for n in sys.argv[1].split(".")[:2]] < [2, 6])' "$torch"; then
    stop "$PYTHON has torch $torch, Narae needs 2.6 or later: load a newer one, or name an interpreter without torch: make PYTHON=/usr/bin/python3"
fi
link=
if [ -n "$torch" ]; then link=$active; fi

# ---- the environment
if [ -L .venv ]; then
    if [ ! -x .venv/bin/python ] || { [ -n "$link" ] && [ "$(readlink .venv)" != "$link" ]; }; then rm .venv; fi
elif [ -d .venv ] && ! .venv/bin/python -c '' 2>/dev/null; then
    say "making .venv again: the one that is there does not run"
    rm -rf .venv
fi
if [ -e .venv ]; then
    has=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$has" != "$version" ]; then say "keeping .venv with Python $has; to have $version: rm -rf .venv, then the same again"; fi
elif [ -n "$link" ]; then
    say "the active environment $link has torch $torch: installing into it (.venv is a link), its torch stays"
    ln -s "$link" .venv
else
    options=()
    if [ -n "$torch" ]; then
        say "$PYTHON has torch $torch: .venv is laid on top, its torch stays"
        options=(--system-site-packages)
    fi
    if ! "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
        # a pip below serves, where .venv is laid on top of it (Colab has no ensurepip, but pip and torch)
        if [ -n "$torch" ] && "$PYTHON" -c 'import venv, pip' 2>/dev/null; then
            options+=(--without-pip)
        else
            stop "$PYTHON has no venv module: apt install python$version-venv, then the same again"
        fi
    fi
    if ! "$PYTHON" -m venv ${options[@]+"${options[@]}"} .venv; then
        rm -rf .venv
        stop "'$PYTHON -m venv .venv' failed: apt install python$version-venv, then the same again"
    fi
fi
python=$(cd .venv/bin && pwd -P)/python
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null 2>&1 ||
    stop "$python has no pip: apt install python$version-venv and rm -rf .venv, or conda install pip"

# ---- the packages. A torch from below or from before is pinned as it is: pip then stops rather than replaces it
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
torch=
if [ -L .venv ] || grep -q '^include-system-site-packages = true' .venv/pyvenv.cfg; then torch=$(torch_of "$python"); fi
if [ -n "$torch" ]; then
    { grep -v '^torch==' constraints.txt; echo "torch==$torch"; } >"$work/constraints.txt"
    size="about 130 MB"
else
    cp constraints.txt "$work/constraints.txt"
    case $(uname -s) in
        Linux) size="about 330 MB with a CPU build of torch, 2.9 GB with the CUDA build that pip prefers" ;;
        *) size="about 250 MB" ;;
    esac
fi
if [ "$(uname -s)" != Linux ]; then say "DeepSpeed is for Linux: here training goes without it"; fi
say "installing into .venv: $size to download, then about a minute"

SECONDS=0
# DS_BUILD_OPS=0: DeepSpeed stays plain Python; no compiler, nvcc or Python header is asked for.
# Byte code is written afterwards by all cores: 20 s less than pip takes for it on two.
DS_BUILD_OPS=0 PIP_USER=0 "$python" -m pip install --disable-pip-version-check --progress-bar off --no-compile \
    -c "$work/constraints.txt" -e ".${EXTRA:+[$EXTRA]}" >"$work/log" 2>&1 &
pip=$!
trap 'kill $pip 2>/dev/null || true; rm -rf "$work"' EXIT
while kill -0 $pip 2>/dev/null; do
    sleep 1
    if [ $((SECONDS % 15)) = 0 ]; then
        say "$SECONDS s  $(grep -E '^ *(Collecting|Downloading|Using cached|Building|Installing)' "$work/log" |
            tail -n 1 | sed 's/^ *//; s/^Installing collected packages.*/unpacking/' | cut -c 1-90)"
    fi
done
if ! wait $pip; then
    grep -v -i warning "$work/log" | tail -n 12 >&2
    stop "pip failed, see above. No network: set PIP_INDEX_URL to a mirror; full disk: .venv takes 1.5 GB, 7 GB with CUDA"
fi
"$python" -m compileall -q -j 0 "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" >/dev/null 2>&1 || true

touch .venv/.installed
if [ -n "$EXTRA" ]; then touch ".venv/.installed-$EXTRA"; fi
say "done in $SECONDS s: $("$python" --version), torch $(torch_of "$python")"
