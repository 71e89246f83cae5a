"""What the README says can be typed; and pages that stand in both languages say the same."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HOME


def english(korean: Path) -> Path:
    return korean.with_name(korean.name.replace(".ko.", "."))


ENGLISH = HOME / "README.md"
KOREAN = [ENGLISH.with_suffix(".ko.md"), *sorted((HOME / "docs").glob("*.ko.md"))]
PAGES = [page for korean in KOREAN for page in (english(korean), korean)]


def commands(page: Path) -> list[list[str]]:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(
        r"^\| `([^`]+)` \|", text, flags=re.M
    )
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.mark.parametrize("page", KOREAN, ids=lambda page: page.name)
def test_both_languages_have_the_same_commands_and_sections(page: Path) -> None:
    assert commands(page) == commands(english(page))
    headings, others = (
        re.findall(r"^#+ ", one.read_text(encoding="utf-8"), flags=re.M) for one in (page, english(page))
    )
    assert headings == others
    assert len(commands(ENGLISH)) >= 20


@pytest.mark.parametrize("page", KOREAN, ids=lambda page: page.name)
def test_figures_are_the_same(page: Path) -> None:
    def figures(page: Path) -> list[list[str]]:
        """Of each cell, in which the languages may put them in another order."""
        rows = re.findall(r"^\|(.+)\|$", page.read_text(encoding="utf-8"), flags=re.M)
        return [sorted(re.findall(r"\d+(?:\.\d+)?", cell)) for row in rows for cell in row.split("|")]

    assert figures(page) == figures(english(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[)#]", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


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
