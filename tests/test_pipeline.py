"""The whole chain on a world of one megabyte, as a person types it, and what is typed too early or twice."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import HOME

from narae.artifact import find, open_artifact
from narae.chain import free_port
from narae.documents import read_documents, shards
from narae.packed import PackedRows

BIN = Path(sys.executable).parent
TRAIN = "pretrain/run.py --deepspeed configs/ds/zero2.json"
SHORT = "--max_steps 12 --batch_rows 2 --eval_steps 6 --save_steps 6 --logging_steps 3"
CHAIN = {
    "sample": "corpus/sample.py --megabytes 1 --chat_examples 400",
    "corpus": "corpus/collect.py",
    "tokenizer": "tokenizer/train.py --vocab_size 2048",
    "packed": "pretrain/pack.py",
    "sample model": f"{TRAIN} {SHORT}",
    "examples": "finetune/prepare.py",
    "chat model": "finetune/sft.py --max_steps 6",
    "answers": "infer/generate.py --questions sample --max_new_tokens 4",
}


def type_in(line: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command as it is typed, from the repository's folder; training under the deepspeed launcher if there is one."""
    words = line.split()
    start = [sys.executable]
    if words[0] == "pretrain/run.py":
        if not (BIN / "deepspeed").exists():
            words = [word for word in words if word not in TRAIN.split()[1:]]
        else:
            start = [str(BIN / "deepspeed"), "--master_port", str(free_port())]
    # no compiler is on this PATH, so that nothing can lean on one
    environment = {**os.environ, "PATH": str(BIN), "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [*start, *words], cwd=HOME, env=environment, input=stdin, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("pipeline") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARAE_ARTIFACTS", str(folder))
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder.parent / "extensions"))
        for line in CHAIN.values():
            done = type_in(line)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        yield folder


def test_every_stage_published_what_it_should(world: Path) -> None:
    model = open_artifact("model", "sample", verify=True)
    chat = open_artifact("model", "sample-chat", verify=True)
    assert [parent["kind"] for parent in model.manifest["parents"]] == ["packed"]
    assert {parent["kind"] for parent in chat.manifest["parents"]} == {"model", "examples"}
    assert model.counts["steps"] == 12 and model.counts["bits_per_byte"] > 0
    sets = open_artifact("answers", "sample-chat", verify=True).counts["sets"]
    assert all(one["questions"] >= 200 for one in sets.values()) and set(sets) == {"wording", "unasked"}
    assert not (world.parent / "extensions").exists()  # DeepSpeed compiled nothing


def test_no_document_is_lost_on_the_way(world: Path) -> None:
    counts = open_artifact("corpus", "sample").counts
    read = counts["read"]["documents"]
    kept = counts["train"]["documents"] + counts["val"]["documents"]
    rejected = sum(reason["documents"] for reason in counts["rejected"].values())
    twice = sum(kind["documents"] for kind in counts["duplicates"].values())
    assert read == kept + rejected + twice
    assert open_artifact("packed", "sample").counts["train"]["documents"] == counts["train"]["documents"]


def test_a_row_is_traced_to_its_archive(world: Path) -> None:
    rows, corpus = PackedRows(open_artifact("packed", "sample")), open_artifact("corpus", "sample")
    first = rows.origin(5)[0].document
    assert first.startswith("aihub653/T") and ":" in first and "#" in first
    assert first in {document.id for document in read_documents(shards(corpus.path, "train"))}


def test_again_every_stage_has_nothing_to_do(world: Path) -> None:
    for line in CHAIN.values():
        done = type_in(line)
        assert done.returncode == 0, done.stderr
        assert "up to date" in done.stderr + done.stdout, f"{line}\n{done.stderr}"


def test_generate_answers_a_prompt_and_a_pipe(world: Path) -> None:
    one = type_in("infer/generate.py --prompt 안녕? --max_new_tokens 5")
    assert one.returncode == 0 and one.stdout.count("\n") == 1
    piped = type_in("infer/generate.py --max_new_tokens 5", stdin="안녕?\n누구야?\n")
    assert piped.returncode == 0 and piped.stdout.count("\n") == 2


def test_the_report_shows_it(world: Path) -> None:
    done = type_in("infer/report.py")
    page = (world / "report.html").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stderr
    for wanted in (open_artifact("model", "sample-chat").fingerprint, "<svg", "bits per byte"):
        assert wanted in page
    assert 'http-equiv="refresh"' not in page  # the run is finished


def test_a_changed_parent_stops_what_follows(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "artifacts"
    shutil.copytree(world, copy)
    monkeypatch.setenv("NARAE_ARTIFACTS", str(copy))
    assert type_in("tokenizer/train.py --vocab_size 1024 --overwrite").returncode == 0
    stale = type_in(f"{TRAIN} --name other --max_steps 1")
    assert stale.returncode == 1
    assert "packed 'sample' was made from tokenizer 'sample'" in stale.stderr + stale.stdout
    assert "`python pretrain/pack.py --overwrite`" in stale.stderr + stale.stdout
    assert find("model", "other") is None


@pytest.mark.parametrize(
    ("line", "makes"),
    [
        (TRAIN, "python pretrain/pack.py"),
        ("infer/generate.py", "make demo"),
        ("finetune/sft.py", "python finetune/prepare.py"),
        ("corpus/collect.py", "python corpus/sample.py"),
        ("tokenizer/train.py", "python corpus/collect.py"),
    ],
)
def test_typed_too_early_it_says_what_makes_the_missing(line: str, makes: str, artifacts: Path) -> None:
    done = type_in(line)
    assert done.returncode == 1
    said = [one for one in done.stderr.splitlines() if "there is n" in one]
    assert len(said) == 1, done.stderr
    assert makes in said[0]
    assert "Traceback" not in done.stderr


def test_without_a_tokenizer_config_nothing_is_half_there(world: Path) -> None:
    manifest = json.loads((world / "tokenizer/sample/manifest.json").read_text(encoding="utf-8"))
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(manifest["files"])
    assert not list(world.rglob(".draft-*"))
