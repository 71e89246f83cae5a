"""python tests/faults/nursery.py : a process that has imported what training needs, and forks a child for each run.

A cold start takes 10 s, most of it imports; a fork takes some milliseconds, and runs the same unmodified command.
Requests come as lines of JSON on the standard input, answers go to the standard output: {"words", "environment",
"output"} starts a command and answers with its process, {"ended": PROCESS} answers with its code, or null. When the
input ends, so do all children.
"""

import ctypes
import importlib
import json
import os
import random
import runpy
import signal
import sys
from pathlib import Path

import numpy

PR_SET_PDEATHSIG = 1
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
MODULES = (
    "deepspeed transformers.trainer transformers.models.phi.modeling_phi transformers.integrations.deepspeed "
    "accelerate.utils.deepspeed torch.distributed.elastic narae.training narae.saving narae.follow narae.devices "
    "narae.footprint narae.ledger narae.model pretrain.run pretrain.trainer pretrain.evaluation pretrain.loss "
    "pretrain.optimizer pretrain.profiler pretrain.batches psutil yaml"
)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in MODULES.split():
        importlib.import_module(name)
    from narae.training import before_deepspeed

    before_deepspeed()
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()} - {"jemalloc_bg_thd"}
    assert len(threads) == 1, f"a fork has but one of its parent's threads {threads}"
    codes: dict[int, int | None] = {}
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        child = asked.get("ended")
        if child is None:
            child = os.fork()
            if child == 0:
                answers.close()
                become(**asked)
                return
            os.setpgid(child, child)  # which the child does, too: whoever comes first
            codes[child] = None
            print(json.dumps(child), file=answers, flush=True)
            continue
        if codes[child] is None:
            pid, status = os.waitpid(child, os.WNOHANG)
            codes[child] = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(codes[child]), file=answers, flush=True)


def become(words: list[str], environment: dict[str, str], output: str) -> None:
    """This child runs the command, and ends as it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)
    for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, written := os.open(output, FLAGS)), (2, written)):
        os.dup2(file, number)
    os.environ.update(environment)
    random.seed()  # as a new interpreter has them: not those of the child before
    numpy.random.seed()
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
