"""Configuration: dataclass < yaml < command line. A thin coat over trl's TrlParser, which knows both.

    python tokenizer/train.py --config configs/tokenizer/sample.yaml --vocab_size 8192

An unknown key or flag is an error. Without --config a command uses the sample's.
"""

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from narae.log import Mistake

HOME = Path(__file__).resolve().parents[1]
# What a stage is called, how many hands do the work and how loudly: none of it changes the result.
NEUTRAL = {"name", "overwrite", "verify", "workers"}


def option(default: Any, text: str) -> Any:
    """A dataclass field with its default and the line that --help prints."""
    metadata = {"help": text}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# Options of TrainingArguments that say how a run is done, not what comes out: they may change between two starts.
HOW = (
    "deepspeed logging_ save_ keep_every if_disk_full hang_timeout max_restarts eval_ per_device_eval report_to "
    "dataloader_ ddp_ disable_tqdm bf16 no_bf16 fp16 use_cpu"
).split()


def deciding(options: dict[str, Any], *also_how: str) -> dict[str, Any]:
    """The options that were asked for and change the weights that come out."""
    return {key: value for key, value in sorted(options.items()) if not key.startswith((*HOW, *also_how))}


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Every option with its default, and the docstring's commands line by line."""


def parse(*kinds: Any, config: str = "", args: Sequence[str] | None = None, about: str | None = "") -> Any:
    """Fill the dataclasses from the config file and the command line; one dataclass in, one object out.

    `config` is the yaml that holds where --config names none.
    """
    from trl.scripts.utils import TrlParser

    words = _words(args, config)
    parser = TrlParser(list(kinds), description=about or None, allow_abbrev=False, formatter_class=_Help)
    parser.add_argument("--config", metavar="FILE", default=config or None, help="yaml with any of these options")
    flags = {flag for action in parser._actions for flag in action.option_strings}
    content = _check_file(words)
    for key in content:
        if f"--{key}" not in flags:
            raise Mistake(
                f"{words[words.index('--config') + 1]}: " + unknown("key", str(key), {flag[2:] for flag in flags})
            )
    if not content and "--config" in words:  # TrlParser takes a file of nothing but comments for damaged
        del words[words.index("--config") : words.index("--config") + 2]
    for word in words:
        flag = word.split("=", 1)[0]
        if flag.startswith("--") and flag not in flags:
            raise Mistake(unknown("flag", flag, flags))
    try:
        result = parser.parse_args_and_config(args=words, fail_with_unknown_args=True)
    except (ValueError, TypeError) as error:
        raise Mistake(str(error).splitlines()[0]) from None
    found = [part for part in result if dataclasses.is_dataclass(part)]
    return found[0] if len(kinds) == 1 else tuple(found)


def parse_first(
    kind: type, config: str = "", args: Sequence[str] | None = None, about: str | None = ""
) -> tuple[Any, dict[str, Any]]:
    """Our own dataclass filled, and every other key or flag that was given: plain data, not checked yet.

    For commands whose further options belong to a library (TrainingArguments, GenerationConfig): they know what was
    asked for before seconds go into importing the library that can judge it.
    """
    words = _words(args, config)
    ours: list[str] = []
    rest: dict[str, Any] = {}
    known = {field.name for field in dataclasses.fields(kind)}
    if "--config" in words:
        place = words.index("--config")
        for key, value in _check_file(words).items():
            if key not in known:
                rest[key] = value
            elif isinstance(value, list):
                ours += [f"--{key}", *map(str, value)]
            elif value is not None:
                ours.append(f"--{key}={value}")
        del words[place : place + 2]
    ours_now = True
    key = ""
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            key = flag[2:].replace("-", "_")
            ours_now = key in known or flag == "--help"
            if not ours_now:
                rest[key] = _value(value) if equals else True
        elif not ours_now:
            rest[key] = _value(word) if rest[key] is True else [*_listed(rest[key]), _value(word)]
        if ours_now:
            ours.append(word)
    return parse(kind, args=ours, about=about), rest


def _value(word: str) -> Any:
    if re.fullmatch(r"[-+]?[\d.]+e[-+]?\d+", word, re.IGNORECASE):  # to yaml, 1e-3 is a word
        return float(word)
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _words(args: Sequence[str] | None, config: str) -> list[str]:
    words = list(sys.argv[1:] if args is None else args)
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    # The deepspeed launcher appends its own flag to every command line.
    words = [word for word in words if not word.startswith(("--local_rank", "--local-rank"))]
    return ["--config", str(HOME / config), *words] if "--config" not in words and config else words


def unknown(what: str, word: str, known: set[str]) -> str:
    if "deepspeed_config" in word:
        return (
            f"{word} is DeepSpeed's own spelling; here it is --deepspeed FILE, e.g. --deepspeed configs/ds/zero2.json"
        )
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"unknown {what} {word}" + (f": did you mean {near[0]}?" if near else "; --help lists them all")


def _check_file(words: list[str]) -> dict[str, Any]:
    """What the --config file says; its path in `words` becomes one that can be opened."""
    if "--config" not in words:
        return {}
    place = words.index("--config") + 1
    if place == len(words):
        raise Mistake("--config needs a file after it")
    path = Path(words[place])
    if not path.is_file() and (HOME / path).is_file():
        path = HOME / path  # configs/… is found from any folder
        words[place] = str(path)
    if not path.is_file():
        shipped = sorted(str(file.relative_to(HOME)) for file in (HOME / "configs").glob("*/*.yaml"))
        raise Mistake(f"no config file {words[place]}; shipped are {', '.join(shipped)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise Mistake(f"{path} is not yaml: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise Mistake(f"{path} must hold `key: value` lines, not a {type(content).__name__}")
    return content


def resolved(*parts: Any, neutral: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """What decides a result, as plain data: the identity of an artifact, and its saved config."""
    values: dict[str, Any] = {}
    for part in parts:
        values |= dataclasses.asdict(part)
    return {key: value for key, value in values.items() if key not in NEUTRAL | set(neutral)}
