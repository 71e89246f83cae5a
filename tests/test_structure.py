"""The house rules that a reader relies on: who imports whom, what files are called, what the shipped configs hold."""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import narae.config

HOME = Path(__file__).resolve().parents[1]
STAGES = ("corpus", "tokenizer", "pretrain", "finetune", "infer")
PACKAGES = ("narae", *STAGES)
SOURCES = [file for package in PACKAGES for file in sorted((HOME / package).rglob("*.py"))]
# The command that reads each folder of configs.
COMMANDS = {
    "sample": "corpus/sample.py",
    "corpus": "corpus/collect.py",
    "tokenizer": "tokenizer/train.py",
    "pack": "pretrain/pack.py",
    "pretrain": "pretrain/run.py",
    "prepare": "finetune/prepare.py",
    "finetune": "finetune/sft.py",
    "generate": "infer/generate.py",
}
CONFIGS = sorted((HOME / "configs").glob("*/*.yaml"))


def label(file: Path) -> str:
    return str(file.relative_to(HOME))


def imports(source: str) -> Iterator[str]:
    """The top-level packages that a source imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module).split(".")[0]


def forbidden(package: str, source: str) -> set[str]:
    """Other stages, and relative imports: those hide which package is meant."""
    return set(imports(source)) & ({*STAGES, "."} - ({package} if package != "narae" else set()))


@pytest.mark.parametrize("file", SOURCES, ids=label)
def test_no_stage_imports_another_stage(file: Path) -> None:
    assert not forbidden(file.relative_to(HOME).parts[0], file.read_text(encoding="utf-8"))


def test_the_rule_sees_what_breaks_it() -> None:
    assert forbidden("infer", "def f():\n    from corpus.world import World") == {"corpus"}
    assert forbidden("narae", "import pretrain.loss as loss") == {"pretrain"}
    assert forbidden("infer", "from . import charts") == {"."}
    assert forbidden("infer", "import os\nfrom infer import charts\nfrom narae import log") == set()


@pytest.mark.parametrize("file", SOURCES, ids=label)
def test_no_file_shadows_a_library(file: Path) -> None:
    """`python stage/command.py` puts the stage's folder first on the path: its files' names hide any package's."""
    if file.stem == "__init__":
        return
    hidden = {"tokenizers", "datasets", "evaluate", "transformers", "torch", "regex", "numpy", "yaml", "trl", "peft"}
    assert file.stem not in hidden | set(sys.stdlib_module_names) | set(PACKAGES)


@pytest.mark.parametrize("file", SOURCES, ids=label)
def test_a_command_shows_itself_in_its_first_lines(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    if 'if __name__ == "__main__":' not in source:
        return
    words = label(file)
    assert words in (ast.get_docstring(ast.parse(source)) or ""), f"the docstring of {words} does not show the command"


def test_paths_are_not_edited() -> None:
    assert [label(file) for file in SOURCES if re.search(r"sys\.path\.(insert|append)", file.read_text())] == []


def test_every_folder_of_configs_has_a_command() -> None:
    assert {file.parent.name for file in CONFIGS} <= COMMANDS.keys()
    assert all((HOME / command).is_file() for command in COMMANDS.values())


@pytest.mark.parametrize("file", CONFIGS, ids=label)
@pytest.mark.usefixtures("artifacts")
def test_a_shipped_config_parses(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is one of the command's, and arrives with its value and type."""
    command = COMMANDS[file.parent.name]
    module = importlib.import_module(command.removesuffix(".py").replace("/", "."))
    parsed = []

    class Enough(BaseException):
        pass

    def stop_after(parse: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> None:
            parsed.append(parse(*args, **options))
            raise Enough

        return call

    for name in ("parse", "parse_first"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, stop_after(getattr(narae.config, name)))
    monkeypatch.setattr(sys, "argv", [command, "--config", str(file)])
    with pytest.raises(Enough):
        module.main()
    parts = parsed[0] if isinstance(parsed[0], tuple) else (parsed[0],)
    for key, value in yaml.safe_load(file.read_text(encoding="utf-8")).items():
        # parse_first hands on what is not the command's own: options of the library that does the work
        found = [part[key] if isinstance(part, dict) else getattr(part, key) for part in parts if holds(part, key)]
        assert found and (found[0] == value or str(getattr(found[0], "value", found[0])) == str(value)), key
        if not any(hasattr(part, key) for part in parts):
            assert key in library_options(file.parent.name), key


def holds(part: Any, key: str) -> bool:
    return key in part if isinstance(part, dict) else hasattr(part, key)


def library_options(stage: str) -> set[str]:
    if stage == "generate":
        from transformers import GenerationConfig

        return set(GenerationConfig().to_dict())
    from narae.training import TrainingOptions

    return set(TrainingOptions.__dataclass_fields__)


def test_configs_of_deepspeed_leave_hyperparameters_to_the_command_line() -> None:
    import json

    files = sorted((HOME / "configs" / "ds").glob("*.json"))
    assert files
    for file in files:
        content = json.loads(file.read_text())
        assert not {"optimizer", "scheduler"} & content.keys(), file.name
        for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
            assert content[key] == "auto", (file.name, key)


def test_every_package_is_installed() -> None:
    text = (HOME / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[(.*)\]$", text, re.M)
    assert listed and {word.strip(' "') for word in listed[1].split(",")} == {*PACKAGES, "bench"}


def test_constraints_pin_every_dependency_and_nothing_else() -> None:
    lines = (HOME / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    wanted = re.findall(r'^ {4}"([A-Za-z0-9-]+)[>=;]', (HOME / "pyproject.toml").read_text(), re.M)
    assert len(wanted) == 18
    assert {name.lower() for name in wanted} <= pinned
