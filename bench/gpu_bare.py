"""What a card's machine lacks, and how a visit goes on all the same.

Packages come from --wheels FOLDER. Without it three have a stand-in, so that training runs: trl, of which
narae/config.py uses one class; zstandard, which reads a corpus and no rows; evaluate, which judges. None of them is at
work in a step.
"""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from bench.gpu_plan import Measurement
from narae.artifact import commit
from narae.config import HOME
from narae.log import Mistake, say
from narae.watch import machine

PARSER = '''"""As much of trl's parser as a bare machine needs: a yaml file's values are the defaults."""
import sys

import yaml
from transformers import HfArgumentParser


class TrlParser(HfArgumentParser):
    def parse_args_and_config(self, args=None, fail_with_unknown_args=True):
        words = list(sys.argv[1:] if args is None else args)
        if "--config" in words:
            place = words.index("--config")
            with open(words[place + 1], encoding="utf-8") as file:
                values = yaml.safe_load(file) or {}
            self.set_defaults(**values)
            for action in self._actions:
                if action.dest in values:
                    action.required = False
            del words[place : place + 2]
        return self.parse_args_into_dataclasses(words, return_remaining_strings=not fail_with_unknown_args)
'''
NOTHING = '''"""Stands where zstandard is missing: nothing here is compressed."""


def __getattr__(name):
    if name == "ZstdError":
        return type(name, (Exception,), {})
    raise AttributeError(f"the package zstandard is not installed, {name} is needed")
'''
NO_METRICS = '''"""Stands where evaluate is missing: nothing here is judged."""
from types import SimpleNamespace

config = SimpleNamespace(HF_MODULES_CACHE="")


def load(*words, **more):
    return None
'''
STAND_INS = {
    "trl": {"trl/__init__.py": "", "trl/scripts/__init__.py": "", "trl/scripts/utils.py": PARSER},
    "zstandard": {"zstandard.py": NOTHING},
    "evaluate": {"evaluate.py": NO_METRICS},
}
PACKAGES = "torch transformers accelerate deepspeed liger-kernel flash-attn triton trl tokenizers numpy".split()


def provide(work: Path, wheels: Path | None, log: Path) -> dict[str, str]:
    """The environment of every measurement."""
    site, stand_ins = work / "site", work / "stand-ins"
    if wheels is not None:
        files = sorted(str(file) for file in wheels.glob("*.whl"))
        if not files:
            raise Mistake(f"--wheels {wheels}: there is no .whl file in it")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site)]
        with log.open("w") as said:
            if subprocess.run([*command, *files], stdout=said, stderr=said).returncode:
                say(f"the wheels in {wheels} could not be installed, {log} says why: the visit goes on without them")
    paths = [str(site), str(HOME), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    for package, files_of in STAND_INS.items():
        if not there(package, paths):
            for name, text in files_of.items():
                file = stand_ins / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    # Last: a path here comes before the installed packages, and what is a stand-in is not installed
    return {"PYTHONPATH": os.pathsep.join([*dict.fromkeys(paths), str(stand_ins)])}


def there(package: str, paths: list[str]) -> bool:
    return PathFinder.find_spec(package, [*paths, *filter(None, sys.path)]) is not None


def missing(one: Measurement, environment: dict[str, str]) -> str:
    """Why it cannot run here at all; nothing where it can."""
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    lacking = [package for package in one.needs if not there(package, paths)]
    if lacking:
        return f"the package {', '.join(lacking)} is not installed"
    return "there is no card" if one.gpu and not cards() else ""


def cards() -> list[str]:
    """One line for each graphics card, as its driver's own program sees it."""
    fields = "name,driver_version,memory.total,clocks.sm,clocks.mem,temperature.gpu,power.limit"
    words = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def about(environment: dict[str, str]) -> dict[str, object]:
    """On what, with what and when."""
    paths = environment["PYTHONPATH"].split(os.pathsep)
    versions = {}
    for package in PACKAGES:
        found = next(iter(importlib.metadata.distributions(name=package, path=[*paths, *sys.path])), None)
        versions[package] = found.version if found else "absent"
    return {
        "machine": machine(),
        "cards": cards(),
        "python": platform.python_version(),
        "versions": versions,
        "stand_ins": [name for name in STAND_INS if not there(name, paths[:-1])],
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
