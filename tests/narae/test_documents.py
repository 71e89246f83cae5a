"""Documents come back as they were written, and a damaged shard says where."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narae.documents import Document, ShardWriter, line_of, read_documents, shards
from narae.log import Mistake

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def write(folder: Path, documents: list[Document], shard_bytes: int = 10**6) -> ShardWriter:
    with ShardWriter(folder, "train", shard_bytes) as writer:
        for document in documents:
            writer.write(document)
    return writer


@settings(deadline=None)
@given(st.lists(st.builds(Document, TEXT, TEXT, TEXT, TEXT, st.dictionaries(TEXT, TEXT | st.integers()))))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> None:
    folder = tmp_path_factory.mktemp("documents")
    writer = write(folder, documents, shard_bytes=20)
    assert list(read_documents(shards(folder, "train"))) == documents
    assert writer.documents == len(documents)
    assert writer.bytes == sum(len(document.text.encode()) for document in documents)


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "가\u2028나\x85다\r라\r\n마\x0b바"
    write(tmp_path, [Document("a", text), Document("b", "")])
    assert [document.text for document in read_documents(shards(tmp_path, "train"))] == [text, ""]


def test_shards_by_bytes_of_text(tmp_path: Path) -> None:
    # "가" has 3 bytes: the second one fills a shard of 6.
    writer = write(tmp_path, [Document(str(number), "가") for number in range(5)], shard_bytes=6)
    files = shards(tmp_path, "train")
    assert [file.name for file in files] == [f"train-0000{number}.jsonl.zst" for number in range(3)]
    assert [[document.id for document in read_documents([file])] for file in files] == [["0", "1"], ["2", "3"], ["4"]]
    assert (len(writer.sizes), writer.bytes) == (3, 15)
    assert shards(tmp_path, "val") == []


def test_same_bytes_twice(tmp_path: Path) -> None:
    documents = [Document("id", "글" * 1000, "source", "licence", {"k": 1})]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, documents)
    assert shards(tmp_path / "a", "train")[0].read_bytes() == shards(tmp_path / "b", "train")[0].read_bytes()


def test_a_damaged_shard(tmp_path: Path) -> None:
    import zstandard

    write(tmp_path, [Document("a", "글")])
    (file,) = shards(tmp_path, "train")
    whole = file.read_bytes()
    file.write_bytes(zstandard.compress(zstandard.decompress(whole, 10**6) + b'{"id": "b"}\n'))
    with pytest.raises(Mistake, match=r"train-00000.jsonl.zst, line 2: not a document"):
        list(read_documents([file]))
    file.write_bytes(b"no" + whole)
    with pytest.raises(Mistake, match=r"train-00000.jsonl.zst, line 1: not a document"):
        list(read_documents([file]))


def test_a_shard_that_was_cut_off(tmp_path: Path) -> None:
    write(tmp_path, [Document(str(number), str(number**9)) for number in range(5000)])
    (file,) = shards(tmp_path, "train")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(Mistake, match="the shard is damaged"):
        list(read_documents([file]))


def test_a_line_is_what_json_writes() -> None:
    for text in ("", '"\\\n\t\x00\x1f\x7f', "글\u2028😀", "</script>"):
        for meta in ({}, {"쪽": 1, "저자": [text, None, 1.5, {"a": True}]}):
            document = Document(text, text + "가", text, "가", meta)
            assert (
                line_of(document).decode()
                == json.dumps(vars(document), ensure_ascii=False, separators=(",", ":")) + "\n"
            )
