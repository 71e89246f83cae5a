"""csv and tsv with the quotes that people write, parquet, saved data sets and those of the Hub."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from reading import causes, ids, read, texts, write_zip

from corpus import reader, tables
from corpus.plain import Raw
from corpus.sources import files_of, sources_of
from narae.log import Mistake


def rows(tmp_path: Path, content: str | bytes, name: str = "a.csv", **options: Any) -> list[tuple[str, str]]:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(raw.text, raw.fault) for _, raw in read(tmp_path / name, **options)[0]]


def good(*found: str) -> list[tuple[str, str]]:
    return [(text, "") for text in found]


def test_csv(tmp_path: Path) -> None:
    content = 'id,text,title,other\n1,"하나, 둘\r\n""셋""",제목,x\n\n2,넷,,y\n'
    (tmp_path / "a.csv").write_text(content, encoding="utf-8", newline="")
    found, opened = read(tmp_path / "a.csv")
    assert found == [
        ("a/a.csv#0", Raw('하나, 둘\n"셋"', {"id": "1", "title": "제목"})),
        ("a/a.csv#1", Raw("넷", {"id": "2"})),
    ]
    assert opened.formats == {"csv": {"members": 1, "documents": 2}}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "utf-16", "utf-16-le"])
def test_encodings_of_csv(tmp_path: Path, encoding: str) -> None:
    assert rows(tmp_path, 'text,id\n"가나, 다",1\n'.encode(encoding)) == good("가나, 다")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "id\ttext\n1\t글, 하나\n"),
        ("a.csv", "id;text\n1;글, 하나\n"),
        ("a.csv", "id\ttext\n1\t글, 하나\n"),
        ("a.csv", "text\n글, 하나\n"),
        ("a.tsv", 'text,id\n"글, 하나",1,,\n'),
    ],
)
def test_what_stands_between_columns(tmp_path: Path, name: str, content: str) -> None:
    assert rows(tmp_path, content, name) == good("글, 하나")


def test_a_quote_that_is_not_closed_costs_one_line(tmp_path: Path) -> None:
    around = "".join(f'{n},"글, 안에 쉼표 {n}"\n' for n in range(20))
    wanted = good(*(f"글, 안에 쉼표 {n}" for n in range(20)))
    lines = {
        '7,"닫히지 않은 글\n': "broken quotes",
        '7,"닫고" 이어 쓴 글\n': "broken quotes",
        "7,쉼표, 하나, 더\n": "wrong number of columns",
        "7\n": "wrong number of columns",
    }
    for line, fault in lines.items():
        bad = [(line[:-1], fault)]
        assert rows(tmp_path, f"id,text\n{around}{line}{around}") == wanted + bad + wanted
        assert rows(tmp_path, f"id,text\n{around}{line}") == wanted + bad


def test_a_quote_that_is_closed_by_a_stray_one_far_below(tmp_path: Path) -> None:
    around = "".join(f'{n},"글, 안에 쉼표 {n}"\n' for n in range(500))
    between = "".join(f"{n},글 {n}\n" for n in range(50))
    found = rows(tmp_path, f'id,text\n{around}1,"열린 글\n{between}2,닫힌 글"\n{around}')
    assert found[500] == ('1,"열린 글', "broken quotes")
    assert found[501:551] == good(*(f"글 {n}" for n in range(50)))
    assert found[551] == ('닫힌 글"', "")
    assert len(found) == 1052
    # What spans lines by right stays whole.
    long = "\n".join(f"줄 {n}, 다음, 또" for n in range(30))
    assert rows(tmp_path, f'id,text\n1,"{long}"\n') == good(long)


def test_a_quote_that_is_never_closed_does_not_take_the_file_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST", 100)
    lines = iter(['1,"열린 글', *(f"{n},글 {n}" for n in range(1000))])
    found = tables.records(lines, ",", quoted=True, columns=2)
    assert next(found) == (['1,"열린 글'], "broken quotes")
    assert next(lines) == "17,글 17"  # 7 characters, ten lines of 5 and seven of 7 were looked at
    assert [cells[0] for cells, fault in found if not fault] == [str(n) for n in range(1000) if n != 17]


def test_a_table_that_knows_no_quoting(tmp_path: Path) -> None:
    lines = ['"가자" 하고 말했다.', '"안 가.', "그래."] * 5
    content = "id\ttext\n" + "".join(f"{n}\t{line}\n" for n, line in enumerate(lines))
    (tmp_path / "a.tsv").write_text(content, encoding="utf-8")
    found, opened = read(tmp_path / "a.tsv")
    assert [(raw.text, raw.fault) for _, raw in found] == good(*lines)
    assert opened.formats == {"tsv": {"members": 1, "documents": 15, "without quoting": 1}}


def test_a_quoted_text_across_the_end_of_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "HEAD", 100)
    text = "\n".join(f"줄 {n}" for n in range(40))
    assert rows(tmp_path, f'id,text\n1,"{text}"\n2,"{text}"\n') == good(text, text)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,document,label\n1,글,0\n", encoding="utf-8")
    wanted = r"no column text; there are id, document, label: --text_field names the one"
    with pytest.raises(Mistake, match=rf"a/a.csv: {wanted}"):
        read(tmp_path / "a.csv")
    assert texts(tmp_path / "a.csv", text_field="document") == ["글"]
    write_zip(tmp_path / "b.zip", {"a.csv": "id,label\n1,2\n", "b.txt": "글"})
    found, opened = read(tmp_path / "b.zip")
    assert [raw.text for _, raw in found] == ["글"]
    assert "no column text; there are id, label" in causes(opened)[0][1]


def test_csv_by_its_schema(tmp_path: Path) -> None:
    assert rows(tmp_path, "text|id\n글|1\n", "a.dat", schema="csv") == good("글")


def table(count: int, **more: Any) -> pyarrow.Table:
    return pyarrow.table({"id": range(count), "text": [f"글 {n}" for n in range(count)], **more})


def test_parquet_by_row_groups(tmp_path: Path) -> None:
    parquet.write_table(table(250), tmp_path / "a.parquet", row_group_size=50)
    path = tmp_path / "a.parquet"
    wanted = [(f"a/a.parquet#{n}", Raw(f"글 {n}", {"id": f"{n}"})) for n in range(250)]
    files = files_of(sources_of([str(path)], {}))
    for size, count in ((1, 5), (10**9, 1)):
        assert len(reader.units(files, size)) == count
        found, opened = read(path, size=size)
        assert found == wanted
        assert opened.formats == {"parquet": {"members": 1, "documents": 250}}


def test_what_parquet_holds_beside_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", 10)  # bytes: each row alone
    spoilt = pyarrow.array([b"\xff", b"ab", None, b""])
    columns = {
        "text": pyarrow.StringArray.from_buffers(4, *spoilt.buffers()[1:], spoilt.buffers()[0]),
        "date": [datetime.date(2001, 2, 3), None, None, None],
        "title": ["제목", "", "또", None],
        "author": [["x"], [], [], []],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    found, _ = read(tmp_path / "a.parquet")
    assert [raw for _, raw in found] == [
        Raw("\ufffd", {"date": "2001-02-03", "title": "제목"}),
        Raw("ab"),
        Raw("", {"title": "또"}, "no text"),
        Raw(""),
    ]


def test_a_row_group_need_not_fit_into_memory(tmp_path: Path) -> None:
    texts = [f"{n:06}" + "a" * 1500 for n in range(20_000)]
    columns = pyarrow.table({"text": texts})
    parquet.write_table(columns, tmp_path / "a.parquet", use_dictionary=False, compression="none")
    del columns
    before = pyarrow.total_allocated_bytes()
    found = tables.read_parquet(tmp_path / "a.parquet", 0, 1, "text")
    assert [raw.text for (_, raw), _ in zip(found, range(10_000), strict=False)] == texts[:10_000]
    assert pyarrow.total_allocated_bytes() - before < 8_000_000  # of 30 MB


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    parquet.write_table(table(9), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[:-30])
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "c.parquet")
    write_zip(tmp_path / "d.zip", {"a.parquet": data})
    found, opened = read({"path": str(tmp_path), "name": "s"})
    assert len(found) == 9
    got = causes(opened)
    wanted = [("s/b.parquet", "damaged"), ("s/c.parquet", "column text holds int64"), ("a.parquet", "unpack it")]
    assert [name for name, _ in got] == [name for name, _ in wanted]
    assert all(part in cause for (_, part), (_, cause) in zip(wanted, got, strict=True)), got
    with pytest.raises(Mistake, match="no column body; there are id, text"):
        read(tmp_path / "a.parquet", text_field="body")


def test_saved_data_sets(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    whole = datasets.Dataset(table(2500))
    whole.save_to_disk(str(tmp_path / "one"), num_shards=2)
    datasets.DatasetDict({"train": whole, "validation": whole.select([3, 1])}).save_to_disk(str(tmp_path / "two"))
    (tmp_path / "one" / "data-00000-of-00007.arrow").write_bytes(b"left over")
    found, opened = read(tmp_path / "one")
    assert found == [
        (f"one/data-0000{shard}-of-00002.arrow#{n}", Raw(f"글 {1250 * shard + n}", {"id": f"{1250 * shard + n}"}))
        for shard in range(2)
        for n in range(1250)
    ]
    assert opened.formats == {"dataset": {"members": 2, "documents": 2500}}
    assert read(tmp_path / "one", size=1)[0] == found  # a unit for each batch of rows
    assert len(reader.units(opened.files, 1)) > 2
    names = ids(tmp_path / "two")
    assert names[2499:] == [
        "two/train/data-00000-of-00001.arrow#2499",
        "two/validation/data-00000-of-00001.arrow#0",
        "two/validation/data-00000-of-00001.arrow#1",
    ]
    assert texts(tmp_path / "two")[2500:] == ["글 3", "글 1"]
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    found, opened = read(tmp_path / "one")
    assert len(found) == 1250
    assert "gone" in causes(opened)[0][1]


def test_data_sets_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "some_set"
    folder.mkdir()
    (folder / "README.md").write_text("읽지 않는다", encoding="utf-8")
    for shard in range(2):
        parquet.write_table(table(3), folder / f"train-0000{shard}-of-00002.parquet")
    parquet.write_table(table(1), folder / "test-00000-of-00001.parquet")
    assert read(f"hub:{folder}")[0] == [
        (f"some_set/train#{shard}.{n}", Raw(f"글 {n}", {"id": f"{n}"})) for shard in range(2) for n in range(3)
    ]
    assert ids(f"hub:{folder}@test") == ["some_set/test#0.0"]
    with pytest.raises(Mistake, match=r"@nowhere: .*nowhere"):
        read(f"hub:{folder}@nowhere")
    with pytest.raises(Mistake, match=r"the Hub cannot be reached .*hf download --repo-type dataset owner/name"):
        read("hub:owner/name")
    with pytest.raises(Mistake, match=r"hub:OWNER/NAME:CONFIG@SPLIT"):
        read("hub:")
    with pytest.raises(Mistake, match="no column body; there are id, text"):
        read(f"hub:{folder}", text_field="body")
