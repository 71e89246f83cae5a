"""What holds an entry of a benchmark is found, whatever its spacing; what only resembles one is not."""

import gzip
import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import zstandard

from corpus.benchmarks import Index, Match, Settings, build, fingerprint, folded, load, of
from narae.log import Mistake

QUESTION = "장터에서 사과를 세 개 산 사람은 누구인가?"  # 17 letters: 5 grams
ANSWER = "나래의 동생이 아침에 사과를 샀다."
AROUND = "어제는 바람이 불었다. {} 그래서 모두 집으로 돌아갔다."


def written(file: Path, *records: object) -> str:
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(file)


def letters_of(text: str) -> str:
    return "".join(character for character in text if character.isalnum()).casefold()


def grams_of(text: str, width: int = 13) -> set[str]:
    text = letters_of(text)
    return {text[start : start + width] for start in range(len(text) - width + 1)}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    build([written(tmp_path / "exam.jsonl", {"question": QUESTION, "answer": ANSWER, "label": 1})], tmp_path / "index")
    return load(tmp_path / "index")


def test_an_entry_inside_a_document_whatever_its_spaces_and_signs(index: Index) -> None:
    squeezed = QUESTION.replace(" ", "").replace("?", "")
    spread = ' "' + " ".join(letters_of(QUESTION)) + '…" '
    texts = [AROUND.format(words) for words in ("아무 일도 없었다.", QUESTION, squeezed, "날이 갰다.", spread)]
    found = [Match("exam.jsonl", 1, "question", 1.0)]
    assert index.find(texts) == [(1, found), (2, found), (4, found)]
    assert index.find([QUESTION]) == [(0, found)]
    assert index.find([f"{ANSWER}\n{QUESTION}"]) == [(0, [*found, Match("exam.jsonl", 1, "answer", 1.0)])]
    assert str(found[0]) == "exam.jsonl:1 question (100%)"


def test_letters_fold(tmp_path: Path) -> None:
    letters, ends = folded(["Ａ b-1", "", "한글 ㄱ!", "\ud800😀"])
    assert "".join(map(chr, letters)) == "ab1한글ᄀ" and ends.tolist() == [3, 3, 6, 6]
    entry = "The QUICK brown fox, ３ times"
    index = of([written(tmp_path / "exam.jsonl", {"q": unicodedata.normalize("NFD", entry + " 뛴다")})])
    assert index.find(["the quick　brown fox 3 TIMES 뛴다", entry]) == [
        (0, [Match("exam.jsonl", 1, "q", 1.0)]),
        (1, [Match("exam.jsonl", 1, "q", 0.8333)]),  # 뛴다 is missing: 10 of 12 grams
    ]


def test_an_entry_does_not_go_on_in_the_next_document(index: Index) -> None:
    half = len(QUESTION) // 2
    assert index.find([QUESTION[:half], QUESTION[half:], AROUND.format("")]) == []


def test_the_share_decides(tmp_path: Path) -> None:
    """An entry of 32 letters has 20 grams. A document that holds its first 28 letters holds 16 of them: 80 %."""
    entry = "".join(chr(0xAC00 + 28 * number) for number in range(32))
    index = of([written(tmp_path / "exam.jsonl", {"text": entry})])
    assert [number for number, _ in index.find([entry[:28], entry[:27], entry[4:], entry[5:]])] == [0, 2]
    assert index.find([entry[:28]])[0][1][0].overlap == 0.8
    # A changed letter in the middle costs 13 grams, at the end one.
    assert index.find([entry[:15] + "나" + entry[16:]]) == []
    assert index.find([entry[:31] + "나"])[0][1][0].overlap == 0.95
    half = of([str(tmp_path / "exam.jsonl")], Settings(overlap=0.35))
    assert half.find([entry[:15] + "나" + entry[16:]])[0][1][0].overlap == 0.35
    whole = of([str(tmp_path / "exam.jsonl")], Settings(overlap=1))
    assert [number for number, _ in whole.find([entry[:31] + "나", entry])] == [1]


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.8, 1.0])
def test_nothing_is_missed_by_what_the_index_leaves_out(tmp_path: Path, overlap: float) -> None:
    """Against every entry compared with every document by sets of strings. Few letters: much is shared."""
    rng = random.Random(1)

    def text(size: int) -> str:
        return "".join(rng.choice("가나다 ") for _ in range(size))

    entries = [text(rng.randrange(3, 40)) for _ in range(150)]
    documents = [text(rng.randrange(200)) for _ in range(60)]
    documents += [
        text(20) + entry[rng.randrange(5) : len(entry) - rng.randrange(5)] + text(9) for entry in entries[:60]
    ]
    index = of([written(tmp_path / "exam.jsonl", *entries)], Settings(6, overlap))
    grams = [grams_of(entry, 6) for entry in entries]
    firsts = {letters_of(entry): line for line, entry in reversed(list(enumerate(entries)))}
    expected = set()
    for number, mine in enumerate(grams_of(document, 6) for document in documents):
        for line in firsts.values():
            share = len(grams[line] & mine) / max(len(grams[line]), 1)
            if share >= overlap:
                expected.add((number, line + 1, round(share, 4)))
    found = {(number, match.line, match.overlap) for number, all_of in index.find(documents) for match in all_of}
    assert found == expected and len(found) > 30


def test_short_and_equal_entries(tmp_path: Path) -> None:
    short = "가나다라 마바사아 자차카타"  # 12 letters
    file = written(tmp_path / "exam.jsonl", {"a": short, "b": short + "파"}, {"a": f"({short}파)", "b": "…", "n": 3})
    index = of([file])
    assert index.counts == {"exam.jsonl": {"entries": 1, "short": 2, "repeated": 1, "broken": 0}}
    assert index.find([short, short + "파"]) == [(1, [Match("exam.jsonl", 1, "b", 1.0)])]


def test_kinds_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        f"{number}번 문항: {word} 앞에서 만난 사람은 누구인가"
        for number, word in enumerate("강물 나무 학교 편지 기차 시계".split())
    ]
    lines = json.dumps({"q": {"parts": ["네", texts[0]]}}, ensure_ascii=False) + "\n{broken\n\n[]\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(json.dumps(texts[1]).encode()))
    (tmp_path / "c.json").write_text(json.dumps([{"q": "네"}, {"q": texts[2]}], indent=1), encoding="utf-8")
    (tmp_path / "d.csv").write_text(f'id,q\n1,"아니오, 예"\n2,"{texts[3]}"\n3\n', encoding="cp949")
    (tmp_path / "e.tsv").write_text(f'\ufeffid\tq\n1\t"{texts[4]}\n', encoding="utf-8")
    (tmp_path / "f.json").write_text(lines.replace(texts[0], texts[5]), encoding="utf-8")
    index = of([str(file) for file in sorted(tmp_path.iterdir())])
    assert index.find(texts) == [
        (0, [Match("a.jsonl.gz", 1, "q.parts.1", 1.0)]),
        (1, [Match("b.jsonl.zst", 1, "", 1.0)]),
        (2, [Match("c.json", 2, "q", 1.0)]),
        (3, [Match("d.csv", 3, "q", 1.0)]),
        (4, [Match("e.tsv", 2, "q", 1.0)]),
        (5, [Match("f.json", 1, "q.parts.1", 1.0)]),
    ]
    assert {name: count["broken"] for name, count in index.counts.items() if count["broken"]} == {
        "a.jsonl.gz": 1, "d.csv": 1, "f.json": 1,
    }  # fmt: skip
    assert "6 benchmark entries, 7 more of under 13 letters; 3 lines are no records" in capsys.readouterr().err


def test_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
    files = [written(tmp_path / "a" / "x.jsonl", QUESTION), written(tmp_path / "b" / "x.jsonl", ANSWER)]
    assert [match[0].file for _, match in of(files).find([QUESTION, ANSWER])] == files


def test_files_that_tell_nothing(tmp_path: Path) -> None:
    empty, broken, number = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl", tmp_path / "number.json"
    empty.write_text("")
    broken.write_text("<html>\n<body>\n")
    number.write_text("[1, 2]")
    (tmp_path / "cut.jsonl.gz").write_bytes(
        gzip.compress(b'{"q": "' + bytes(random.Random(1).choices(range(32, 90), k=9000)))[:500]
    )
    for file, said in (
        (empty, "no text is in it"),
        (broken, "2 lines are no records, and no text is in it"),
        (number, "no text is in it"),
        (tmp_path / "cut.jsonl.gz", "cut off"),
        (tmp_path / "nowhere.jsonl", "it is gone"),
    ):
        with pytest.raises(Mistake, match=f"benchmark .*{file.name}: .*{said}"):
            of([str(file)])
    with pytest.raises(Mistake, match=r"nowhere\.jsonl: No such file"):
        fingerprint(str(tmp_path / "nowhere.jsonl"))
    for wrong in ((3, 0.8), (65, 0.8), (13, 0), (13, 1.1)):
        with pytest.raises(Mistake):
            Settings(*wrong)  # type: ignore[arg-type]


def test_no_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build([], tmp_path)
    assert load(tmp_path).find([QUESTION]) == [] and load(tmp_path).counts == {}
    assert capsys.readouterr().err == ""


def test_no_documents(index: Index) -> None:
    assert index.find([]) == [] == index.find(["", "짧다"])


def test_the_index_is_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    texts = ["".join(rng.choice("가나다라마") for _ in range(rng.randrange(10, 60))) for _ in range(300)]
    file = written(tmp_path / "exam.jsonl", *texts)
    build([file], tmp_path / "one")
    build([file], tmp_path / "two")
    monkeypatch.setattr("corpus.benchmarks.BATCH", 50)
    build([file], tmp_path / "small")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    for other in ("two", "small"):
        assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / other / name).read_bytes() for name in names)
    assert load(tmp_path / "small").find(texts) == load(tmp_path / "one").find(texts)
    assert fingerprint(file) == fingerprint(file) and fingerprint(file)[0] == (tmp_path / "exam.jsonl").stat().st_size


def test_a_gram_that_every_entry_has_is_not_what_finds_them(tmp_path: Path) -> None:
    """The rarest grams are kept: a phrase that all questions begin with makes no document look like one."""
    opening = "다음 중에서 옳은 것을 모두 고르시오 "
    texts = [opening + "".join(chr(0xAC00 + (7 * line + place) % 11172) for place in range(12)) for line in range(100)]
    build([written(tmp_path / "exam.jsonl", *texts)], tmp_path / "index")
    kept = np.fromfile(tmp_path / "index" / "grams.u64", "<u8")
    # 28 letters are 16 grams: of 16, 13 make 80 %, so 4 are kept; the 4 within the opening are the commonest.
    assert len(kept) == len(set(kept.tolist())) == 400
    assert load(tmp_path / "index").find([opening]) == []
