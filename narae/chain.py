"""Every stage in order: on the sample world, or on a person's own text.

    python narae/chain.py demo                                            # make demo
    python narae/chain.py run --data ~/books --size 125m                  # make run DATA=~/books SIZE=125m
    python narae/chain.py run --data ~/books --size 125m --dry_run        # disk, memory and time, and nothing else

Each stage is the command that a person would type, and it decides by itself whether there is anything to do: what is
up to date takes no time, what a changed config or parent touches is made again, and an unfinished run goes on.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narae.artifact import KINDS, Artifact, find, root
from narae.config import HOME
from narae.log import Mistake, duration, say
from narae.watch import Watch, machine

ZERO2 = ("--deepspeed", "configs/ds/zero2.json")


@dataclass
class Stage:
    name: str
    does: str
    command: list[str]
    makes: tuple[str, str] | None = None  # kind and name of the artifact
    launch: bool = False  # under the deepspeed launcher, where there is one

    @property
    def typed(self) -> str:
        """The command as a person types it."""
        return shlex.join(["deepspeed" if self.launch else "python", *self.command])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    chains = parser.add_subparsers(dest="chain", required=True, metavar="demo|run")
    chains.add_parser("demo", help="the sample world, from nothing to a model that answers")
    own = chains.add_parser("run", help="your own text through the same stages", allow_abbrev=False)
    own.add_argument("--data", required=True, help="a folder or file: AIHub archives, txt, jsonl")
    own.add_argument("--size", default="125m", help="tiny, 14m, 125m, 350m or 1.3b")
    own.add_argument("--name", default="", help="what the artifacts are called (default: after the data)")
    own.add_argument("--chat", default="", help="jsonl with questions and answers, to fine-tune on")
    own.add_argument("--vocab_size", type=int, default=0, help="entries of the tokenizer (default: by the text's size)")
    own.add_argument("--dry_run", "--dry-run", action="store_true", help="say disk, memory and time, then stop")
    own.add_argument("--overwrite", action="store_true", help="replace artifacts that another config made")
    options = parser.parse_args()
    if options.chain == "demo":
        follow(demo(), root() / "demo.json", one_device=True)
        closing()
        return
    from narae.estimate import plan

    project = plan(options.data, options.size, options.name, options.chat, options.vocab_size, options.overwrite)
    for line in project.lines:
        say(line)
    if options.dry_run:
        return
    model = project.stages[-1].command[-1]
    follow(project.stages, root() / "runs" / model / "chain.json")
    print(f"\nThe model is {root() / 'runs' / model / 'final'}, the report {root() / 'report.html'}")
    print(f"Talk to it: python infer/generate.py --model {shlex.quote(model)}")


def demo() -> list[Stage]:
    """Every command's own defaults are the sample's."""
    # What this stage makes may be replaced: the demo's names are the demo's
    new = ["--overwrite"]
    return [
        Stage("sample", "writes the sample world as AIHub archives", ["corpus/sample.py", *new], ("sample", "sample")),
        Stage("collect", "reads, cleans, deduplicates, splits", ["corpus/collect.py", *new], ("corpus", "sample")),
        Stage("tokenizer", "learns the vocabulary", ["tokenizer/train.py", *new], ("tokenizer", "sample")),
        Stage("pack", "turns text into rows of 512 tokens", ["pretrain/pack.py", *new], ("packed", "sample")),
        Stage(
            "pretrain",
            "trains a Phi model from random weights",
            ["pretrain/run.py", *launcher_options(), *new],
            ("model", "sample"),
            launch=True,
        ),
        Stage("prepare", "makes examples of questions", ["finetune/prepare.py", *new], ("examples", "sample")),
        Stage("fine-tune", "teaches the model to answer", ["finetune/sft.py", *new], ("model", "sample-chat")),
        Stage(
            "generate",
            "asks what was never asked in training",
            ["infer/generate.py", "--questions", "sample", *new],
            ("answers", "sample-chat"),
        ),
        Stage("report", "draws the page", ["infer/report.py"]),
    ]


def launcher_options() -> list[str]:
    return list(ZERO2) if has_deepspeed() else []


def has_deepspeed() -> bool:
    return sys.platform == "linux" and importlib.util.find_spec("deepspeed") is not None


@dataclass
class Measured:
    """Seconds and peak memory of each stage, kept beside the artifacts and merged over runs."""

    file: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def load(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self.stages = {stage["name"]: stage for stage in json.loads(self.file.read_text())["stages"]}

    def save(self, order: Sequence[Stage]) -> None:
        found = [self.stages[stage.name] for stage in order if stage.name in self.stages]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "seconds": round(sum(stage["seconds"] for stage in found), 1),
            "peak_memory_mb": max((stage["peak_memory_mb"] for stage in found), default=0),
            "machine": machine(),
            "stages": found,
        }
        fresh = self.file.with_suffix(".tmp")
        fresh.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        fresh.replace(self.file)


def follow(stages: Sequence[Stage], file: Path, one_device: bool = False) -> None:
    """Run the stages in order, stop at the first that fails, measure those that worked."""
    measured = Measured(file)
    measured.load()
    began = time.monotonic()
    if any(stage.launch for stage in stages) and not has_deepspeed():
        say("DeepSpeed is not installed (it is made for Linux): training starts without its launcher")
    for number, stage in enumerate(stages, start=1):
        say(f"[{number}/{len(stages)}] {stage.name} {stage.does}: {stage.typed}")
        before = published(stage)
        code, seconds, memory = execute(stage, one_device)
        if code:
            raise Mistake(
                f"{stage.name} stopped with code {code}, its last line says why; the same command goes on here"
            )
        worked = stage.makes is None or published(stage) != before
        if worked:
            measured.stages[stage.name] = {
                "name": stage.name,
                "command": stage.typed,
                "seconds": round(seconds, 1),
                "peak_memory_mb": round(memory / 1e6),
            }
            measured.save(stages)
        say(f"[{number}/{len(stages)}] {stage.name} {'done' if worked else 'had nothing to do'} in {duration(seconds)}")
    total = time.monotonic() - began
    peak = max(stage["peak_memory_mb"] for stage in measured.stages.values())
    say(f"all {len(stages)} stages in {duration(total)}, at most {peak / 1000:.1f} GB of memory")


def published(stage: Stage) -> int:
    """When the artifact of a stage was published; 0 where none is."""
    if stage.makes is None:
        return 0
    kind, name = stage.makes
    file = root() / KINDS[kind][0].format(name) / "manifest.json"
    return file.stat().st_mtime_ns if file.is_file() else 0


def execute(stage: Stage, one_device: bool) -> tuple[int, float, float]:
    """The exit code, the seconds, and the peak memory of the process and its children, in bytes."""
    # A stage is no task of a Slurm job, even inside one, and works in another folder than the chain was started in
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environment["NARAE_ARTIFACTS"] = str(root())
    words = [sys.executable]
    if stage.launch and has_deepspeed():
        words += ["-m", "deepspeed.launcher.runner", "--quiet", "--master_port", str(free_port())]
        words += ["--num_gpus", "1"] * limited(environment, one_device)
    elif one_device:
        # Trainer would spread over all GPUs of the machine, and the batch with it
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")):
        environment.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns, once in each process
    environment.setdefault("TOKENIZERS_PARALLELISM", "true")
    began = time.monotonic()
    process = subprocess.Popen([*words, *stage.command], cwd=HOME, env=environment)
    watch = Watch(process.pid)
    try:
        _, status, used = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
        raise Mistake(f"{stage.name} was interrupted; the same command goes on from here") from None
    finally:
        watch.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    # A child's peak starts at that of the process which forked it: at or below ours it says nothing
    own = used.ru_maxrss if used.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss else 0
    own *= 1 if sys.platform == "darwin" else 1024
    return process.returncode, time.monotonic() - began, max(own, watch.peak)


def limited(environment: dict[str, str], one_device: bool) -> bool:
    """Whether the launcher needs telling to start one process only."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if not one_device:
        return not Path("/dev/nvidiactl").exists()  # without a GPU it would start a process per memory bank
    if visible and visible.split(",")[0].isdigit():
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]  # the launcher takes this one; it refuses both
        return False
    return True


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def closing() -> None:
    """What a newcomer wants to see, and what to type next."""
    answers, model = find("answers", "sample-chat"), find("model", "sample")
    if answers is None or model is None:
        raise Mistake("the stages ended without a model and its answers: run `make demo` again")
    print("\nQuestions that were never trained on, and what the model says:\n")
    for row in examples(answers, 5):
        print(f"  {row['question']}\n    {'○' if row['exact'] else '×'} {row['answer']}")
        if not row["exact"]:
            print(f"      ({row['expected']})")
    print()
    labels = {"wording": "facts asked in wordings never trained on", "unasked": "facts told in the corpus, never asked"}
    for name, counts in sorted(answers.counts["sets"].items(), reverse=True):
        share = counts["exact"] / max(counts["questions"], 1)
        print(
            f"  {labels.get(name, name):42} {counts['exact']:4} of {counts['questions']} answered exactly: {share:.0%}"
        )
    print(f"  {'held-out text':42} {model.counts['bits_per_byte']:.3f} bits per byte")
    with contextlib.suppress(OSError, ValueError, KeyError):
        measured = json.loads((root() / "demo.json").read_text())
        print(f"  {'all stages, as measured when each ran':42} {duration(measured['seconds'])}, ", end="")
        print(f"at most {measured['peak_memory_mb'] / 1000:.1f} GB of memory")
    python = Path(sys.executable).parent
    activate = "" if str(python) in os.environ.get("PATH", "").split(os.pathsep) else "  source .venv/bin/activate\n"
    print(f"\nThe report: {root() / 'report.html'}\nWhat to type next:\n\n{activate}", end="")
    print("  python infer/generate.py                                          # ask it something")
    if has_deepspeed():
        print("  deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json        # pretraining by itself")
    print("  make run DATA=folder-or-file SIZE=125m                            # your own text")


def examples(answers: Artifact, number: int) -> list[dict[str, Any]]:
    """Evenly spaced over both sets of questions."""
    rows = [json.loads(line) for line in (answers.path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    return [rows[round((place + 0.5) * len(rows) / number)] for place in range(min(number, len(rows)))]


if __name__ == "__main__":
    main()
