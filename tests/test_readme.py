"""What the README says can be typed, in both languages."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HOME

ENGLISH, KOREAN = (HOME / name for name in ("README.md", "README.ko.md"))


def commands(page: Path) -> list[list[str]]:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"^\| `(.+?)` \|", text, flags=re.M)
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_both_languages_have_the_same_commands_and_sections() -> None:
    assert commands(ENGLISH) == commands(KOREAN)
    headings, others = (re.findall(r"^#+", page.read_text(encoding="utf-8"), flags=re.M) for page in (ENGLISH, KOREAN))
    assert headings == others
    assert len(commands(ENGLISH)) >= 20


def test_figures_are_the_same() -> None:
    def figures(page: Path) -> list[str]:
        rows = re.findall(r"^\|(.+)\|$", page.read_text(encoding="utf-8"), flags=re.M)
        return [number for row in rows for number in re.findall(r"\d+(?:\.\d+)?", row)]

    assert figures(ENGLISH) == figures(KOREAN)


@pytest.mark.parametrize("page", [ENGLISH, KOREAN], ids=["en", "ko"])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (HOME / target).exists(), target


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    wanted = {words[1] for words in commands(ENGLISH) if words[0] == "make"}
    assert wanted == {"demo", "test", "run"}
    assert wanted <= set(targets)


def scripts() -> list[list[str]]:
    found = [words for words in commands(ENGLISH) if words[0] in {"python", "deepspeed", "sbatch", "bash"}]
    return [words[next(n for n, word in enumerate(words) if "/" in word) :] for words in found]


def test_scripts_and_configs_exist() -> None:
    for words in scripts():
        for word in words:
            if re.fullmatch(r"(configs|slurm|corpus|tokenizer|pretrain|finetune|infer|narae)/\S+", word):
                assert (HOME / word).is_file(), word


@pytest.mark.parametrize("words", [w for w in scripts() if w[0].endswith(".py") and len(w) > 1], ids=" ".join)
def test_flags_exist(words: list[str]) -> None:
    shown = subprocess.run([sys.executable, str(HOME / words[0]), "--help"], capture_output=True, text=True, check=True)
    for flag in (word for word in words if word.startswith("--")):
        assert flag in shown.stdout, flag
