"""python bench/saving.py [--packed books] [--size 125m] [--ranks 2] [--threads 1] [--quick]

What a checkpoint costs the training around it, written in the foreground and behind the next steps (--save_async), in
turn: the step in which it is saved less the median step, beside the time until it is whole on the disk.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.machine import keep, short, spread
from narae.artifact import root
from narae.config import HOME
from narae.log import Mistake, read_metrics, say

NAME = "bench-saving"
EVERY = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", default="sample")
    parser.add_argument("--size", default="125m")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--batch_rows", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0, help="of each rank; 0 shares out all cores")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of the size tiny")
    asked = parser.parse_args()
    if asked.quick:
        asked.size = "tiny"
    rounds = 1 if asked.quick else asked.rounds
    saves: dict[str, list[dict[str, float]]] = {"foreground": [], "behind": []}
    for _ in range(rounds):
        saves["foreground"] += saved(asked, [])
        saves["behind"] += saved(asked, ["--save_async"])
    result: dict[str, Any] = {"size": asked.size, "ranks": asked.ranks, "threads": asked.threads or "all cores"}
    result |= {"batch_rows": asked.batch_rows, "saves": len(saves["behind"])}
    for way, found in saves.items():
        print(way)
        for key in found[0]:
            result[f"{way} {key}"] = spread([one[key] for one in found])
            print(f"  {key:40} {result[f'{way} {key}']['median']}")
    stalls = {way: statistics.median([one["stall"] for one in found]) for way, found in saves.items()}
    result["stall_share"] = short(
        statistics.median([one["stall"] / one["until it is whole"] for one in saves["behind"]])
    )
    result["stall_vs_foreground"] = short(stalls["behind"] / stalls["foreground"])
    name = f"saving-{asked.threads}-threads" if asked.threads else "saving"
    say(f"{keep(name, result, ('torch', 'transformers', 'deepspeed'))}")
    print(json.dumps({key: result[key] for key in ("stall_share", "stall_vs_foreground")}))


def saved(asked: argparse.Namespace, words: list[str]) -> list[dict[str, float]]:
    """Of each save but the first, for which memory is touched for the first time: what it cost, in seconds."""
    run = root() / "runs" / NAME
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={asked.ranks}"]
    command += ["pretrain/run.py", "--deepspeed", "configs/ds/zero2.json", "--name", NAME, "--packed", asked.packed]
    command += ["--size", asked.size, "--batch_rows", str(asked.batch_rows), "--max_steps", str(4 * EVERY + 3)]
    command += ["--save_steps", str(EVERY), "--eval_rows", "4", "--eval_steps", "1000000", "--logging_steps", "1"]
    threads = str(asked.threads or max(1, (os.cpu_count() or 1) // asked.ranks))
    done = subprocess.run([*command, *words], cwd=HOME, env=os.environ | {"OMP_NUM_THREADS": threads})
    if done.returncode:
        raise Mistake("the run did not come to its end: its last lines say why")
    return costs(run)


def costs(run: Path) -> list[dict[str, float]]:
    """From the run's records. A step is written down before its checkpoint: the save falls into the next interval."""
    records = read_metrics(run / "metrics.jsonl")
    ended = {one["step"]: one["time"] for one in records if one["kind"] == "train"}
    took = {step: ended[step] - ended[step - 1] for step in ended if step - 1 in ended}
    whole = {one["step"]: one for one in records if one["kind"] == "save"}
    # Steps beside which nothing is written
    apart = [
        seconds
        for step, seconds in took.items()
        if step > 2
        and not any(
            at < ended[step] and ended[step - 1] < one["time"]
            for at, one in ((ended.get(saved, 0.0), one) for saved, one in whole.items())
        )
    ]
    median = statistics.median(apart)
    found = []
    for step, one in sorted(whole.items())[1:]:
        beside = [took[later] for later in took if later > step and ended[later - 1] < one["time"]]
        if step + 1 in took:
            found.append(
                {
                    "median step": median,
                    "stall": max(took[step + 1] - median, 0.0),
                    "until it is whole": one["whole"],
                    "all steps until then, beyond the median": sum(beside) - median * len(beside),
                }
            )
    return found


if __name__ == "__main__":
    main()
