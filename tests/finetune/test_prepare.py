"""Three shapes of rows become one; what cannot be used is counted and kept aside."""

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import helpers
import pytest
import zstandard

from finetune import prepare
from finetune.prepare import RowError, read_row
from narae import artifact
from narae.artifact import open_artifact
from narae.log import Mistake

ASKED = [{"role": "user", "content": "하늘은?"}, {"role": "assistant", "content": "파랗다."}]


def line(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False)


def write(file: Path, *rows: Any) -> Path:
    file.write_text("\n".join(row if isinstance(row, str) else line(row) for row in rows) + "\n", encoding="utf-8")
    return file


def many(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{n}번은?", "answer": f"{n}이다."} for n in range(count)]


def rows(name: str, split: str) -> list[Any]:
    file = open_artifact("examples", name, verify=True).path / f"{split}.jsonl"
    return [json.loads(one) for one in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": ASKED},
        {"prompt": "하늘은?", "answer": "파랗다."},
        {"instruction": "하늘은?", "input": "", "output": "파랗다."},
        {"instruction": "하늘은?", "output": " 파랗다.\n"},
        {"prompt": unicodedata.normalize("NFD", "하늘은?"), "answer": "파랗다.", "id": 7},
    ],
)
def test_every_shape_is_the_same_conversation(row: Any) -> None:
    assert read_row(line(row)) == ASKED


def test_an_input_follows_its_instruction() -> None:
    found = read_row(line({"instruction": "번역하라.", "input": "sky", "output": "하늘"}))
    assert found[0]["content"] == "번역하라.\n\nsky"


def test_turns_and_a_system_message_stay() -> None:
    chat = [{"role": "system", "content": "짧게."}, *ASKED, *ASKED]
    assert read_row(line({"messages": chat})) == chat


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": ', "not JSON"),
        ("[1, 2]", "not an object"),
        ("\udcff", "not UTF-8"),
        ({"question": "?", "answer": "!"}, "missing fields"),
        ({"messages": [{"role": "user"}]}, "missing fields"),
        ({"messages": "하늘"}, "wrong type"),
        ({"prompt": 3, "answer": "셋"}, "wrong type"),
        ({"instruction": "?", "input": ["a"], "output": "!"}, "wrong type"),
        ({"prompt": "하늘은?", "answer": "  "}, "empty answer"),
        ({"prompt": "", "answer": "파랗다."}, "empty question"),
        ({"messages": []}, "roles do not alternate"),
        ({"messages": ASKED[:1]}, "roles do not alternate"),
        ({"messages": [ASKED[1], ASKED[0]]}, "roles do not alternate"),
        ({"messages": [*ASKED, ASKED[1]]}, "roles do not alternate"),
        ({"messages": [{"role": "tool", "content": "?"}, ASKED[1]]}, "roles do not alternate"),
        ({"prompt": "<|assistant|>", "answer": "!"}, "control token in the text"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        read_row(row if isinstance(row, str) else line(row))


def test_counts_add_up_and_nothing_is_lost(artifacts: Path, tmp_path: Path) -> None:
    good = many(200)
    file = write(tmp_path / "chat.jsonl", *good, good[3], {"prompt": "?", "answer": ""}, "", "broken")
    helpers.call(prepare.main, "--source", str(file), "--name", "mine", "--val_fraction", "0.1")
    counts = open_artifact("examples", "mine").counts
    assert counts["rows"] == 203
    assert counts["duplicates"] == 1
    assert counts["rejected"] == {"empty answer": 1, "not JSON": 1}
    assert counts["train"] + counts["val"] == 200
    assert 5 <= counts["val"] <= 40
    asked = {row["messages"][0]["content"] for split in ("train", "val") for row in rows("mine", split)}
    assert asked == {row["prompt"] for row in good}
    assert [(row["line"], row["reason"]) for row in rows("mine", "rejected")] == [
        (202, "empty answer"),
        (204, "not JSON"),
    ]
    assert rows("mine", "rejected")[1]["row"] == "broken"


def test_the_held_out_do_not_depend_on_the_rest(artifacts: Path, tmp_path: Path) -> None:
    one, both = write(tmp_path / "one.jsonl", *many(100)), write(tmp_path / "more.jsonl", *many(200)[100:])
    helpers.call(prepare.main, "--source", str(one), "--name", "one", "--val_fraction", "0.2")
    helpers.call(prepare.main, "--source", str(both), str(one), "--name", "both", "--val_fraction", "0.2")
    assert [row for row in rows("both", "val") if row in rows("one", "val")] == rows("one", "val") != []
    assert not [row for row in rows("both", "train") if row in rows("one", "val")]


def test_compressed_sources_read_alike(artifacts: Path, tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jsonl", *many(50)).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(plain[:900]) + zstandard.compress(plain[900:]))
    for suffix in ("", ".gz", ".zst"):
        helpers.call(prepare.main, "--source", str(tmp_path / f"a.jsonl{suffix}"), "--name", f"x{suffix[1:]}")
    assert rows("x", "train") == rows("xgz", "train") == rows("xzst", "train")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain)[:100])
    with pytest.raises(Mistake, match=r"a\.jsonl\.gz is damaged"):
        helpers.call(prepare.main, "--source", str(tmp_path / "a.jsonl.gz"), "--name", "cut")


def test_too_many_bad_rows_stop_it(artifacts: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "chat.jsonl", *many(9), "broken")
    with pytest.raises(Mistake, match=r"1 of 10 rows .* \(1 not JSON\), more than --max_bad 0\.05"):
        helpers.call(prepare.main, "--source", str(file))
    assert artifact.find("examples", "sample") is None
    helpers.call(prepare.main, "--source", str(file), "--max_bad", "0.1")
    with pytest.raises(Mistake, match="no example to train on"):
        helpers.call(prepare.main, "--source", str(write(tmp_path / "none.jsonl", "broken")), "--name", "none")


def test_again_does_nothing_and_other_rows_are_refused(
    artifacts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "chat.jsonl", *many(5))
    helpers.call(prepare.main, "--source", str(file))
    helpers.call(prepare.main, "--source", str(file))
    assert "up to date" in capsys.readouterr().err
    write(file, *many(6))
    with pytest.raises(Mistake, match="--overwrite replaces it"):
        helpers.call(prepare.main, "--source", str(file))


def test_the_samples_chat_is_the_default(artifacts: Path) -> None:
    with pytest.raises(Mistake, match=r"`python corpus/sample\.py` makes it"):
        helpers.call(prepare.main)
    with artifact.begin("sample", "sample", {}) as draft:  # type: ignore[union-attr]
        write(
            draft.path / "chat.jsonl", *({"messages": [{**ASKED[0], "content": f"{n}?"}, ASKED[1]]} for n in range(9))
        )
    helpers.call(prepare.main)
    manifest = open_artifact("examples", "sample").manifest
    assert [parent["kind"] for parent in manifest["parents"]] == ["sample"]
    assert manifest["counts"]["rows"] == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--source", "absent.jsonl"], "there is no such file"), (["--val_fraction", "2"], "such as 0.02")],
)
def test_one_clear_line(words: list[str], message: str, artifacts: Path) -> None:
    with pytest.raises(Mistake, match=message):
        helpers.call(prepare.main, *words)
