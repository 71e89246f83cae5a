"""Measures what the README says of the demo: a fresh clone, `make demo`, and `make demo` again.

    python bench/demo.py                # about ten minutes; writes bench/results/demo-<what machine>.json
    python bench/demo.py --keep DIR     # leaves the clone with its artifacts there

The machine should have nothing else to do. Prints a table, and as its last line one JSON object.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path

from narae.config import HOME
from narae.log import Mistake
from narae.watch import machine

PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "tokenizers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="a folder that does not exist yet, for the clone")
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        raise Mistake(f"--keep {options.keep}: it is there already; name a folder that is not")
    with tempfile.TemporaryDirectory() as scratch:
        clone = options.keep or Path(scratch) / "narae"
        subprocess.run(["git", "clone", "--quiet", str(HOME), str(clone)], check=True)
        first, again = demo(clone), demo(clone)
        found = figures(clone, first, again)
    for key, value in found.items():
        print(f"{key:26} {value}")
    name = re.sub(r"\W+", "-", f"{os.cpu_count()}-cores-{platform.machine()}")
    file = HOME / "bench" / "results" / f"demo-{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if isinstance(value, int | float)}))


def demo(clone: Path) -> float:
    """Seconds of `make demo`, as a newcomer's shell runs it: no environment of ours reaches it."""
    private = ("NARAE_", "HF_", "VIRTUAL_ENV", "PYTHONPATH", "OMP_NUM_THREADS", "MAKE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(private)}
    own = str(Path(os.environ.get("VIRTUAL_ENV", "/nonexistent")) / "bin")
    environment["PATH"] = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != own)
    began = time.monotonic()
    done = subprocess.run(["make", "demo"], cwd=clone, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise Mistake(f"make demo stopped with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - began


def figures(clone: Path, first: float, again: float) -> dict[str, object]:
    artifacts = clone / "artifacts"

    def read(*parts: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(artifacts.joinpath(*parts).read_text(encoding="utf-8"))
        return found

    stages = read("demo.json")
    sets = read("answers", "sample-chat", "manifest.json")["counts"]["sets"]  # type: ignore[index]
    model = read("runs", "sample", "final", "manifest.json")
    return {
        "seconds": round(first, 1),
        "seconds_again": round(again, 1),
        "peak_memory_mb": stages["peak_memory_mb"],
        "wording_exact": round(sets["wording"]["exact"] / sets["wording"]["questions"], 4),
        "unasked_exact": round(sets["unasked"]["exact"] / sets["unasked"]["questions"], 4),
        "bits_per_byte": model["counts"]["bits_per_byte"],  # type: ignore[index]
        "questions": sets,
        "stages": {one["name"]: one["seconds"] for one in stages["stages"]},  # type: ignore[attr-defined]
        "commit": model["commit"],
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
