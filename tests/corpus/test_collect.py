"""The whole command: accounting, split, copies, the planted sample, the same bytes every time, nothing half done."""

import itertools
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
import zstandard

from corpus import collect, sample
from corpus.privacy import PLACEHOLDERS
from narae.artifact import Artifact, find, open_artifact, place
from narae.documents import Document, draw, read_documents, shards
from narae.log import Mistake
from tests.helpers import SENTENCES, call

Run = Callable[..., subprocess.CompletedProcess[str]]


def documents(corpus: Artifact, split: str) -> list[Document]:
    return list(read_documents(shards(corpus.path, split)))


def rejected(corpus: Artifact) -> list[Document]:
    return list(read_documents([corpus.path / "rejected.jsonl.zst"]))


def copies(corpus: Artifact) -> dict[str, str]:
    lines = zstandard.ZstdDecompressor().stream_reader(
        (corpus.path / "duplicates.jsonl.zst").read_bytes(), read_across_frames=True
    )
    return {record["id"]: record["of"] for record in map(json.loads, lines.read().splitlines())}


def files(corpus: Artifact) -> dict[str, dict[str, object]]:
    """All but the page, which bears the name."""
    return {name: known for name, known in corpus.manifest["files"].items() if name != "corpus.html"}


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def story(number: int, sentences: int = 6) -> str:
    """Stories of sentences of their own: no two are alike."""
    return "\n".join(SENTENCES[number * sentences : (number + 1) * sentences])


pytestmark = pytest.mark.usefixtures("artifacts")


@pytest.fixture
def small(artifacts: Path) -> Artifact:
    assert str(artifacts) in str(place("sample", "sample"))
    call(sample.main, "--megabytes", "0.3", "--chat_examples", "10", "--member_megabytes", "0.01")
    call(collect.main, "--workers", "1")
    return open_artifact("corpus", "sample", verify=True)


def test_everything_planted_is_found(small: Artifact) -> None:
    planted = json.loads((open_artifact("sample", "sample").path / "planted.json").read_text(encoding="utf-8"))[
        "planted"
    ]
    state = {document.meta["document"]: ("rejected", document) for document in rejected(small)}
    for split in ("train", "val"):
        state |= {document.meta["document"]: (split, document) for document in documents(small, split)}
    seen = set()
    for plant in planted:
        seen.add(plant["kind"])
        if plant["kind"] == "junk":
            assert state[plant["id"]][0] == "rejected", plant
        elif plant["kind"] in ("exact_duplicate", "near_duplicate"):
            assert (plant["id"] in state) != (plant["of"] in state), plant
        elif plant["kind"] == "personal":
            assert plant["piece"] not in state[plant["id"]][1].text, plant
            assert any(name in state[plant["id"]][1].text for name in PLACEHOLDERS), plant
        elif plant["kind"] == "nfd":
            assert state[plant["id"]][0] in ("train", "val"), plant
        elif plant["kind"] in ("empty_member", "broken_json"):
            below = plant["archive"].partition("/")[2]
            assert (f"aihub653/{below}", plant["member"]) in {
                (entry["archive"], entry["member"]) for entry in small.counts["unreadable"]
            }
        elif plant["kind"] == "cp949_name":
            key = f"aihub653/{Path(plant['archive']).stem}:{plant['member']}#"
            assert any(document.id.startswith(key) for _, document in state.values()), plant
        elif plant["kind"] == "part_is_zip":
            key = f"aihub653/{Path(plant['archive']).name.removesuffix('.zip.part0')}:"
            assert any(document.id.startswith(key) for _, document in state.values()), plant
        else:
            raise AssertionError(f"planted, and no test knows it: {plant}")
    assert len(seen) == 9
    counts = small.counts
    assert sum(c["documents"] for c in counts["rejected"].values()) == sum(p["kind"] == "junk" for p in planted)
    assert sum(c["documents"] for c in counts["duplicates"].values()) == sum("duplicate" in p["kind"] for p in planted)
    assert len(counts["unreadable"]) == 2


def test_counts_are_what_lies_there(small: Artifact) -> None:
    counts = small.counts
    for split in ("train", "val"):
        texts = [document.text for document in documents(small, split)]
        assert counts[split] == {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
    by_reason: dict[str, dict[str, int]] = {}
    for document in rejected(small):
        entry = by_reason.setdefault(document.meta["rejected"], {"documents": 0, "bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += len(document.text.encode())
    assert counts["rejected"] == by_reason
    assert sum(count["documents"] for count in counts["duplicates"].values()) == len(copies(small))
    kept = counts["train"]["documents"] + counts["val"]["documents"]
    assert counts["read"]["documents"] == kept + len(rejected(small)) + len(copies(small))
    assert counts["sources"]["aihub653"]["licence"].startswith("AIHub, 653")


def test_validation_archives_are_val(small: Artifact) -> None:
    names = {
        split: {document.id.split("/")[1][0] for document in documents(small, split)} for split in ("train", "val")
    }
    assert names == {"train": {"T"}, "val": {"V"}}


def test_the_same_bytes_for_any_number_of_workers(small: Artifact) -> None:
    call(collect.main, "--workers", "2", "--name", "two")
    assert files(open_artifact("corpus", "two")) == files(small)


def test_again_is_up_to_date_and_other_settings_are_refused(
    small: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert small.counts["read"]["documents"] > 0
    capsys.readouterr()
    call(collect.main, "--workers", "3")
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(Mistake, match=r"similarity = 0\.8 instead of 0\.9"):
        call(collect.main, "--similarity", "0.9")


def test_accounting_by_hand(tmp_path: Path) -> None:
    texts = [story(n) for n in range(5)]
    dirty = story(5).replace(".", "!!!!!", 1)  # loses 2 bytes
    source = write(tmp_path / "in" / "a.txt", *texts, dirty, "짧다.", texts[0], texts[1].replace("\n", "  \n"))
    call(collect.main, "--sources", str(source.parent), "--name", "hand", "--val_fraction", "0", "--licence", "CC0")
    corpus = open_artifact("corpus", "hand")
    size = [len(text.encode()) for text in [*texts, dirty, "짧다."]]
    everything = {
        "read": {"documents": 9, "bytes": sum(size) + size[0] + size[1] + 10},
        "train": {"documents": 6, "bytes": sum(size[:6]) - 2},
        "val": {"documents": 0, "bytes": 0},
        "rejected": {"too short": {"documents": 1, "bytes": size[6]}},
        "duplicates": {
            "exact": {"documents": 2, "bytes": size[0] + size[1] + 10},
            "near": {"documents": 0, "bytes": 0},
        },
        "cleaned": {"documents": 1, "bytes": -2},
    }
    assert corpus.counts == everything | {
        "masked": {},
        "unreadable": [],
        "formats": {"text": {"members": 1, "documents": 9, "short": 1}},
        "sources": {"in": everything | {"licence": "CC0", "weight": 1.0}},
    }
    assert copies(corpus) == {"in/a.txt#7": "in/a.txt#0", "in/a.txt#8": "in/a.txt#1"}
    assert [(document.id, document.text) for document in rejected(corpus)] == [("in/a.txt#6", "짧다.")]


def book(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    paragraphs = [{"id": str(n), "sentences": [{"text": text}]} for n, text in enumerate(texts)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1_TEXT.json", json.dumps({"paragraphs": paragraphs}))


def test_a_copy_of_val_does_not_stay_in_train(tmp_path: Path) -> None:
    held, near = story(1).replace("\n", " "), story(1).replace("\n", " ").replace("나래는", "그때 나래는", 1)
    book(tmp_path / "653" / "1.Training" / "TL_1.zip", story(0), near, held, story(2))
    book(tmp_path / "653" / "2.Validation" / "VL_1.zip", held)
    call(collect.main, "--sources", str(tmp_path / "653"), "--name", "books", "--workers", "1")
    corpus = open_artifact("corpus", "books")
    assert [document.text for document in documents(corpus, "val")] == [held]
    assert [document.id for document in documents(corpus, "train")] == [
        f"aihub653/TL_1:1_TEXT.json#{n}" for n in (0, 3)
    ]
    assert set(copies(corpus).values()) == {"aihub653/VL_1:1_TEXT.json#0"}


def test_the_split_goes_by_the_id_alone(tmp_path: Path) -> None:
    texts = [" ".join(pair) for pair in itertools.islice(itertools.combinations(SENTENCES, 2), 0, 60_000, 151)]
    for name, some in (("all", texts), ("few", texts[:150])):
        write(tmp_path / name / "in" / "a.txt", *some)
        words = ("--val_fraction", "0.2", "--similarity", "0", "--workers", "1", "--quality", "sample", "--name", name)
        call(collect.main, "--sources", str(tmp_path / name / "in"), *words)
    val = {
        name: [document.id for document in documents(open_artifact("corpus", name), "val")] for name in ("all", "few")
    }
    assert 0.14 < len(val["all"]) / len(texts) < 0.26
    assert val["few"] == [name for name in val["all"] if int(name.partition("#")[2]) < 150]


def test_a_few_documents_still_have_a_val(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", story(0), story(1), story(2))
    call(collect.main, "--sources", str(tmp_path / "a.txt"), "--name", "few")
    counts = open_artifact("corpus", "few").counts
    assert (counts["train"]["documents"], counts["val"]["documents"]) == (2, 1)


def test_max_documents(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", *(story(n) for n in range(9)))
    call(collect.main, "--sources", str(tmp_path / "a.txt"), "--max_documents", "4", "--name", "few")
    assert open_artifact("corpus", "few").counts["read"]["documents"] == 4


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    empty = write(tmp_path / "a.txt", "짧다.")
    (tmp_path / "nothing").mkdir()
    for words, message in (
        (("--sources", str(tmp_path / "none")), "no such file or folder"),
        (("--sources", str(tmp_path / "nothing")), "there is no file in"),
        (("--sources", str(empty)), "nothing is left to train on: 1 documents read, rejected: too short 1"),
        (("--document", "page"), "--document page: it is line, blank or file"),
        (("--val_fraction", "2"), "a share lies between 0 and 1"),
        ((), "`python corpus/sample.py` makes it"),
    ):
        with pytest.raises(Mistake, match=message) as mistake:
            call(collect.main, *words)
        assert "\n" not in str(mistake.value)
    assert find("corpus", "sample") is None


def test_lines_instead_of_documents_are_met_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        tmp_path / "a.txt", *(f"{sentence} 그리고 {number}번 웃었다." for number, sentence in enumerate(SENTENCES[:40]))
    )
    call(collect.main, "--sources", str(tmp_path / "a.txt"), "--quality", "sample", "--workers", "1")
    assert "warning: 40 of 40 text documents are one short sentence" in capsys.readouterr().err


def test_other_input_under_the_same_name_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", story(0), story(1))
    call(collect.main, "--sources", str(source), "--workers", "1")
    write(source, story(0), story(2))
    with pytest.raises(Mistake, match=r"other input \(a/a.txt\).*--overwrite"):
        call(collect.main, "--sources", str(source), "--workers", "1")
    call(collect.main, "--sources", str(source), "--workers", "1", "--overwrite")


def test_a_killed_run_goes_on_behind_its_pieces(artifacts: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{n} " + story(n % 60)}, ensure_ascii=False) + "\n" for n in range(24_000)]
    for number in range(6):
        (tmp_path / f"in-{number}.jsonl").write_text("".join(lines[number::6]), encoding="utf-8")
    words = ["--sources", f"in={tmp_path}/in-*", "--shard_megabytes", "1", "--similarity", "0"]
    call(collect.main, *words, "--name", "whole", "--workers", "1")
    work = artifacts / "corpus" / ".work-sample"
    killed = []
    for enough in (1, 3):
        command = [sys.executable, str(Path(collect.__file__)), *words, "--workers", "2"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tmp_path)
        while len(list(work.glob("stages/clean/completions/*"))) < enough:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
        time.sleep(1)  # the workers notice, and let go of the lock
        marked = len(list(work.glob("stages/clean/completions/*")))
        killed.append((marked, {path: path.stat().st_mtime_ns for path in work.glob("pieces/[0-9]*/counts.json")}))
        assert find("corpus", "sample") is None
    (marked, first), (_, second) = killed
    assert sum(second.get(path) == written for path, written in first.items()) >= marked  # none was done twice
    call(collect.main, *words, "--workers", "1")
    assert files(open_artifact("corpus", "sample", verify=True)) == files(open_artifact("corpus", "whole"))
    assert sorted(path.name for path in (artifacts / "corpus").iterdir()) == [
        ".lock-sample",
        ".lock-whole",
        "sample",
        "whole",
    ]


def settings(path: Path, **values: object) -> str:
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return str(path)


def test_sources_of_a_yaml_have_names_licences_weights_and_limits(tmp_path: Path) -> None:
    """The same short talk is too short for web, and long enough for chat."""
    talk = "응 그래 내일 봐 ㅋㅋ 늦지 마라 알았지"
    write(tmp_path / "a.txt", story(0), talk)
    write(tmp_path / "b.txt", story(1), talk.replace("내일", "모레"))
    sources = [
        {"path": str(tmp_path / "a.txt"), "name": "글", "quality": "web", "licence": "CC0"},
        {"path": str(tmp_path / "b.txt"), "name": "말", "quality": "chat", "weight": 2},
    ]
    file = settings(tmp_path / "c.yaml", name="two", sources=sources, val_fraction=0, similarity=0)
    call(collect.main, "--config", file, "--workers", "1")
    corpus = open_artifact("corpus", "two")
    kept = [(document.id, document.source, document.licence) for document in documents(corpus, "train")]
    assert kept == [("글/a.txt#0", "글", "CC0"), ("말/b.txt#0", "말", ""), ("말/b.txt#1", "말", "")]
    found = corpus.counts["sources"]
    assert {name: (one["licence"], one["weight"]) for name, one in found.items()} == {"글": ("CC0", 1), "말": ("", 2)}
    assert found["글"]["rejected"] == {"too short": {"documents": 1, "bytes": len(talk.encode())}}
    assert found["말"]["rejected"] == {}


def test_a_group_of_near_duplicates_lies_on_one_side(tmp_path: Path) -> None:
    """Sixty stories, each told three times with one word more."""
    tellings = [story(n).replace("\n", f" {word}\n", 1) for n in range(60) for word in ("그리고", "그래서", "그러나")]
    write(tmp_path / "a.txt", *tellings)
    words = ("--sources", str(tmp_path / "a.txt"), "--val_fraction", "0.3", "--workers", "1")
    sides = {}
    for way in ("keep", "drop"):
        call(collect.main, *words, "--name", way, "--near_duplicates", way)
        corpus = open_artifact("corpus", way)
        sides[way] = {
            int(document.id.partition("#")[2]): split
            for split in ("train", "val")
            for document in documents(corpus, split)
        }
    assert sorted(sides["keep"]) == list(range(180))
    families = [{sides["keep"][3 * n + telling] for telling in range(3)} for n in range(60)]
    assert all(len(family) == 1 for family in families) and {"train"} in families and {"val"} in families
    # The first of each stays, and its draw decides for all.
    assert sides["drop"] == {3 * n: "val" if draw(f"a/a.txt#{3 * n}") < 0.3 else "train" for n in range(60)}
    assert all(sides["keep"][number] == split for number, split in sides["drop"].items())


def test_a_document_that_holds_a_benchmark_entry_goes(tmp_path: Path) -> None:
    question = "바닷가에서 책을 읽던 나래는 왜 산마을로 돌아갔을까?"
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": question, "label": 1}) + "\n", encoding="utf-8")
    write(tmp_path / "a.txt", story(0), f"{story(1)} {question.replace(' ', '  ')} {story(2)}", story(3))
    words = ("--benchmarks", str(tmp_path / "quiz.jsonl"), "--val_fraction", "0", "--workers", "1")
    call(collect.main, "--sources", str(tmp_path / "a.txt"), "--name", "fair", *words)
    corpus = open_artifact("corpus", "fair")
    assert [document.id for document in documents(corpus, "train")] == ["a/a.txt#0", "a/a.txt#2"]
    assert corpus.counts["benchmarks"] == {"quiz.jsonl": {"entries": 1, "short": 0, "repeated": 0, "broken": 0}}
    [gone] = rejected(corpus)
    assert gone.id == "a/a.txt#1" and gone.meta == {
        "rejected": "benchmark",
        "benchmark": ["quiz.jsonl:1 question (100%)"],
    }


def test_explain_follows_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dirty = story(0).replace(".", "!!!!!!", 1) + " 문의 010-1234-5678"
    write(tmp_path / "a.txt", dirty, story(1), dirty + " ")
    words = ("--sources", str(tmp_path / "a.txt"), "--name", "told", "--val_fraction", "0")
    call(collect.main, *words, "--workers", "1")
    capsys.readouterr()
    call(collect.main, *words, "--explain", "a/a.txt#0")
    told = capsys.readouterr().out
    assert "[-010-1234-5678-]{+<전화번호>+}" in told and "in train-00000.jsonl.zst" in told
    call(collect.main, *words, "--explain", "a/a.txt#2")
    assert "the same as a/a.txt#0" in capsys.readouterr().out
    with pytest.raises(Mistake, match="no document of these sources has this id"):
        call(collect.main, *words, "--explain", "a/a.txt#9")


def test_a_page_without_text(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", story(0), story(0), "짧다.", story(1))
    for name, more in (("open", []), ("closed", ["--no_text", "true"])):
        call(collect.main, "--sources", str(tmp_path / "a.txt"), "--name", name, "--workers", "1", *more)
    pages = {name: (place("corpus", name) / "corpus.html").read_text(encoding="utf-8") for name in ("open", "closed")}
    assert "짧다." in pages["open"] and "나래는" in pages["open"]
    assert "짧다." not in pages["closed"] and "나래는" not in pages["closed"] and "a/a.txt#2" in pages["closed"]
