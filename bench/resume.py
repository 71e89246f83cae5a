"""python bench/resume.py [--packed books] [--step 1000000]

How long a run that goes on at a late step waits for its first batch: from building the loader to having the batch, for
one rank of one, for one of 64, and with a thousand stretches left out on the way.
"""

import argparse
import json
import time

from torch.utils.data import DataLoader

from bench.machine import keep, spread
from narae.artifact import open_artifact
from narae.log import say
from narae.mixture import Mixture
from narae.order import Mixing
from narae.packed import PackedRows
from pretrain.batches import Batches, Boundaries
from pretrain.segments import Course

BATCH_ROWS = 128
ROUNDS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", default="sample")
    parser.add_argument("--step", type=int, default=1_000_000)
    asked = parser.parse_args()
    packed = open_artifact("packed", asked.packed)
    mixing = Mixing((int(packed.counts["train"]["rows"]),), (1,), seed=42)
    course = Course.of(mixing, (asked.step + 1000) * BATCH_ROWS, BATCH_ROWS)
    gaps = [
        (0, first, first + BATCH_ROWS) for first in range(0, asked.step * BATCH_ROWS, asked.step * BATCH_ROWS // 1000)
    ]
    ways = {
        "at step 0": (course, 0, 1),
        f"at step {asked.step:,}": (course, asked.step, 1),
        f"at step {asked.step:,}, rank 63 of 64": (course, asked.step, 64),
        f"at step {asked.step:,}, 1,000 stretches left out": (course.without(gaps), asked.step, 1),
    }
    result = {}
    for name, (where, step, ranks) in ways.items():
        result[name] = spread([1000 * first_batch(packed, where, step, ranks) for _ in range(ROUNDS)])
        print(f"{name:50} {result[name]['median']:8} ms  ({result[name]['least']} to {result[name]['most']})")
    found = {"milliseconds": result, "packed rows": mixing.rows[0], "batch_rows": BATCH_ROWS, "rounds": ROUNDS}
    say(f"{keep('resume', found, ('torch', 'numpy'))}")
    print(json.dumps({"first_batch_ms": max(one["median"] for name, one in result.items() if name != "at step 0")}))


def first_batch(packed: object, course: Course, step: int, ranks: int) -> float:
    """Seconds. The rows are opened anew, too."""
    began = time.perf_counter()
    rows = Mixture([PackedRows(packed, "train")], mixing=course.segments[0].mixing)  # type: ignore[arg-type]
    batches = Batches(rows, course, 8, Boundaries(attention=True), step, ranks - 1, ranks)
    batch = next(iter(DataLoader(batches, batch_size=None, num_workers=0)))
    assert sum(len(part["input_ids"]) for part in batch["micro"]) == BATCH_ROWS // ranks
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
