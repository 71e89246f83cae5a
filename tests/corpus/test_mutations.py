"""Damage of every kind, through the whole command: no archive stops it, and no document is lost without a word.

A failing seed can be run again alone: pytest tests/corpus/test_mutations.py -k 'seed7-'.
"""

import contextlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard
from breaking import Made, make

from corpus import collect
from narae.artifact import Artifact, open_artifact
from narae.documents import read_documents, shards
from narae.log import Mistake
from tests.helpers import call

SEEDS, BROKEN, SOUND = 25, 36, 4  # runs; archives in each
# A damaged header of a table looks like a wrong --text_field: this stops the run, and says which file it is.
STOP = r"(?P<file>s/[^:]+): no column text; there are .*: --text_field names the one that holds the text"


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
        if folder / "artifacts" not in (path, *path.parents)
    }


def name_of(place: str) -> str:
    """Of the download that an id or a label tells."""
    found = re.search(r"[ms]\d\d(?=[.:#])", place)
    assert found, place
    return found[0]


def lines(path: Path) -> list[dict[str, Any]]:
    data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read()
    return [json.loads(line) for line in data.splitlines()]


@contextlib.contextmanager
def no_more_than(mebibytes: int) -> Iterator[None]:
    """Of memory, more than there was at the beginning."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    with contextlib.suppress(OSError):
        reset.write_text("5")  # the peak is what is there now
    before = int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0])
    yield
    assert int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) - before < mebibytes << 10


@pytest.mark.parametrize("seed", range(SEEDS), ids="seed{}-".format)
def test_damage(
    seed: int, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads = {f"m{number:02d}": make(f"m{number:02d}", Random(f"{seed} {number}")) for number in range(BROKEN)}
    for number in range(SOUND):
        downloads[f"s{number:02d}"] = make(f"s{number:02d}", Random(f"{seed} sound {number}"), broken=False)
    told = "\n".join(
        f"{name} in {list(made.files)}: {', '.join(made.done) or 'sound'}" for name, made in downloads.items()
    )
    for made in downloads.values():
        for name, data in made.files.items():
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    words = ["--sources", f"s={tmp_path}/in", "--quality", "sample", "--max_unreadable", "1", "--workers", "1"]
    stopped: list[str] = []
    while True:
        before = snapshot(tmp_path)
        try:
            with no_more_than(200):
                call(collect.main, *words)
        except Mistake as mistake:
            found = re.fullmatch(STOP, mistake.message)
            assert found, f"{mistake.message}\n{told}"
            stopped.append(name_of(found["file"]))
        else:
            break
        finally:
            said = capsys.readouterr().err
            assert "Traceback" not in said, f"{said}\n{told}"
            assert before == snapshot(tmp_path), told
        made = downloads.pop(stopped[-1])
        assert made.done, f"stopped by {stopped[-1]}, which is sound\n{told}"
        for path in made.files:
            (tmp_path / "in" / path).unlink()
    assert len(stopped) < BROKEN / 4
    corpus = open_artifact("corpus", "sample", verify=True)
    assert sorted(path.name for path in artifacts.iterdir()) == ["corpus"]
    assert sorted(path.name for path in (artifacts / "corpus").iterdir()) == [".lock-sample", "sample"]
    check(corpus, downloads, told)
    if seed < 2:
        call(collect.main, *words[:-1], "2", "--name", "two")
        kept = [path for path in corpus.path.iterdir() if path.name.endswith(".jsonl.zst")]
        assert all(path.read_bytes() == (corpus.path.parent / "two" / path.name).read_bytes() for path in kept)


def check(corpus: Artifact, downloads: dict[str, Made], told: str) -> None:
    counts = corpus.counts
    kept = {split: list(read_documents(shards(corpus.path, split))) for split in ("train", "val")}
    rejected = list(read_documents([corpus.path / "rejected.jsonl.zst"]))
    copies = lines(corpus.path / "duplicates.jsonl.zst")
    texts = {document.id: document.text for split in kept.values() for document in split}
    for split, documents in kept.items():
        assert counts[split]["documents"] == len(documents)
        assert counts[split]["bytes"] == sum(len(document.text.encode()) for document in documents)
    names = [*texts, *(document.id for document in rejected), *(copy["id"] for copy in copies)]
    assert len(set(names)) == len(names) == counts["read"]["documents"], told
    assert sum(met["documents"] for met in counts["formats"].values()) == len(names)
    assert {copy["of"] for copy in copies} <= set(texts)
    reasons = Counter(document.meta["rejected"] for document in rejected)
    assert reasons == {reason: count["documents"] for reason, count in counts["rejected"].items()}
    assert sum(len(document.text.encode()) for document in rejected) == sum(
        count["bytes"] for count in counts["rejected"].values()
    )

    by_download = {name: Counter[str]() for name in downloads}
    for name in names:
        by_download[name_of(name)][texts.get(name, "")] += 1
    unreadable: Counter[str] = Counter()
    for entry in counts["unreadable"]:
        assert entry["cause"] and "\n" not in entry["cause"] and len(entry["cause"]) < 400, entry
        assert entry["bytes"] >= 0
        unreadable[name_of(entry["archive"])] += 1
    assert unreadable.keys() <= downloads.keys()
    for name, made in downloads.items():
        about = f"{name}: {by_download[name]}, {unreadable[name]}\n{told}"
        assert by_download[name] or unreadable[name], f"nothing came of it, and nothing was said: {about}"
        assert not Counter(made.sure) - by_download[name], about
        if not made.done:
            assert Counter(made.sure) == by_download[name] and not unreadable[name], about
