"""Dataclass < yaml < command line, and nothing that nobody knows."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from narae.config import HOME, option, parse, resolved
from narae.log import Mistake


@dataclasses.dataclass
class Config:
    name: str = option("sample", "the name")
    overwrite: bool = option(False, "replace it")
    vocab_size: int = option(100, "entries")
    share: float = option(0.5, "a share")
    sources: list[str] = option(["a"], "sources")


def given(tmp_path: Path, content: str) -> str:
    file = tmp_path / "some.yaml"
    file.write_text(content)
    return str(file)


def test_dataclass_then_yaml_then_command_line(tmp_path: Path) -> None:
    assert parse(Config, args=[]) == Config()
    file = given(tmp_path, "vocab_size: 200\nshare: 0.25\nsources: [b, c]\n")
    assert parse(Config, args=["--config", file]) == Config(vocab_size=200, share=0.25, sources=["b", "c"])
    both = ["--vocab_size", "300", "--config", file, "--overwrite"]
    assert parse(Config, args=both) == Config(overwrite=True, vocab_size=300, share=0.25, sources=["b", "c"])
    assert parse(Config, config=file, args=[]).vocab_size == 200
    assert parse(Config, config=given(tmp_path, "# nothing\n"), args=["--sources", "x", "y"]).sources == ["x", "y"]


@pytest.mark.parametrize("words", [["--vocab-size", "7"], ["--vocab_size=7"], ["--vocab-size=7"]])
def test_spellings(words: list[str]) -> None:
    assert parse(Config, args=words).vocab_size == 7


def test_config_with_an_equals_sign(tmp_path: Path) -> None:
    assert parse(Config, args=[f"--config={given(tmp_path, 'vocab_size: 9')}"]).vocab_size == 9


def test_unknown_flag() -> None:
    with pytest.raises(Mistake) as error:
        parse(Config, args=["--vocab_siez", "7"])
    assert str(error.value) == "unknown flag --vocab_siez: did you mean --vocab_size?"
    with pytest.raises(Mistake, match="unknown flag --qqqqqq; --help lists them all"):
        parse(Config, args=["--qqqqqq=1"])
    with pytest.raises(Mistake, match="unknown flag --vocab"):  # no guessing from a beginning
        parse(Config, args=["--vocab", "7"])


def test_unknown_key(tmp_path: Path) -> None:
    file = given(tmp_path, "vocabsize: 7\n")
    with pytest.raises(Mistake) as error:
        parse(Config, args=["--config", file])
    assert str(error.value) == f"{file}: unknown key vocabsize: did you mean vocab_size?"


def test_a_value_of_the_wrong_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Config, args=["--vocab_size", "many"])
    assert "--vocab_size" in capsys.readouterr().err


def test_launchers_add_their_rank() -> None:
    assert parse(Config, args=["--local_rank=3", "--vocab_size", "7"]).vocab_size == 7


def test_deepspeeds_own_spelling() -> None:
    with pytest.raises(Mistake, match="here it is --deepspeed FILE"):
        parse(Config, args=["--deepspeed_config", "x.json"])


def test_config_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"no config file nowhere.yaml; shipped are configs/"):
        parse(Config, args=["--config", "nowhere.yaml"])
    with pytest.raises(Mistake, match="--config needs a file after it"):
        parse(Config, args=["--config"])
    with pytest.raises(Mistake, match=r"some.yaml is not yaml"):
        parse(Config, args=["--config", given(tmp_path, "a: [")])
    with pytest.raises(Mistake, match=r"some.yaml must hold `key: value` lines, not a list"):
        parse(Config, args=["--config", given(tmp_path, "- a")])


def test_shipped_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from tokenizer import train

    assert parse(train.Config, args=["--config", "configs/tokenizer/books.yaml"]).name == "books"


def test_shipped_configs_fill_their_commands() -> None:
    from pretrain import pack
    from tokenizer import train

    for kind, folder in ((train.Config, "tokenizer"), (pack.Config, "pack")):
        files = sorted((HOME / "configs" / folder).glob("*.yaml"))
        assert [file.name for file in files] == ["books.yaml", "sample.yaml"]
        for file in files:
            filled = dataclasses.asdict(parse(kind, args=["--config", str(file)]))
            assert {key: filled[key] for key in yaml.safe_load(file.read_text())} == yaml.safe_load(file.read_text())


def test_resolved_is_what_decides_the_result() -> None:
    assert resolved(Config(name="x", overwrite=True)) == {"vocab_size": 100, "share": 0.5, "sources": ["a"]}
    assert resolved(Config(), neutral={"share"}) == {"vocab_size": 100, "sources": ["a"]}
