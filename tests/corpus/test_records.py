"""The sets of AIHub and NIKL, a miniature of each: how they are told apart, their documents, and what is set aside."""

import io
import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from corpus import aihub
from corpus.aihub import SCHEMAS, detect
from corpus.bigjson import head_of
from corpus.plain import Raw
from corpus.zips import UnreadableError
from narae.log import Mistake

BOOK = {
    "id": "p1",
    "info": {"kdc": "813", "published_year": 2001, "author": {"birth_year": "1950", "jobs": ["작가", "교사"]}},
    "sentences": [{"text": "첫 문장.", "original_text": "첫 문쟝."}, {"text": " 둘째 문장. ", "original_text": ""}],
}
ROWS = '653.12.0\t그는 "가자 하고 말했다.\t810\t2001\t1950\t작가\n653.12.1\t둘째 문장.\t810\t2001\t1950\t작가\n'
WEB_LABEL = {
    "named_entity": [
        {
            "title": [{"sentence": "큰 제목"}],
            "content": [{"sentence": "비가 온다."}, {"sentence": "내일 날씨"}, {"sentence": "해가 난다"}],
            "source_site": "날씨 마당",
            "write_date": "2020-05-01",
        }
    ]
}
CONVERSATION = [
    {"id": "u1", "form": "밥 먹었니?", "speaker_id": "1"},
    {"id": "u2", "form": "응 {laughing} 먹었어.", "speaker_id": "2"},
]
# key -> (a file of this schema, its name, its documents as (text, metadata))
SAMPLES: dict[str, tuple[Any, str, list[tuple[str, dict[str, str]]]]] = {
    "aihub653-json": (
        {"paragraphs": [BOOK]},
        "810_TEXT_001.json",
        [
            (
                "첫 문장. 둘째 문장.",
                {"document": "p1", "kdc": "813", "year": "2001", "birth_year": "1950", "jobs": "작가, 교사"},
            )
        ],
    ),
    "aihub653-tsv": (
        ROWS,
        "810_DATA.tsv",
        [
            (
                '그는 "가자 하고 말했다. 둘째 문장.',
                {"document": "12", "kdc": "810", "year": "2001", "birth_year": "1950", "jobs": "작가"},
            )
        ],
    ),
    "aihub624": (
        {
            "SJML": {
                "header": {"id": 1},
                "text": [{"title": "제목", "subtitle": "", "content": "첫 줄\n둘째 줄", "source_site": "마당"}],
            }
        },
        "ECO_01.json",
        [("제목\n첫 줄\n둘째 줄", {"site": "마당"})],
    ),
    "aihub624-label": (
        WEB_LABEL,
        "ECO_01.json",
        [("큰 제목\n비가 온다. 내일 날씨\n해가 난다", {"site": "날씨 마당", "date": "2020-05-01"})],
    ),
    "aihub625": (
        WEB_LABEL,
        "게임/BOGA210001274753.json",
        [("큰 제목\n비가 온다. 내일 날씨\n해가 난다", {"site": "날씨 마당", "date": "2020-05-01"})],
    ),
    "aihub110": (
        {"data": [{"id": 3, "title": "판례", "rows": [{"text": "첫 줄.", "NE": []}, {"text": "둘째 줄."}]}]},
        "법률.json",
        [("첫 줄.\n둘째 줄.", {"document": "3", "title": "판례"})],
    ),
    "aihub97": (
        {
            "documents": [
                {
                    "id": "327827480",
                    "title": "제목",
                    "category": "종합",
                    "media_name": "한강신문",
                    "text": [[{"index": 0, "sentence": "하나."}, {"sentence": "둘."}], [], [{"sentence": "셋."}]],
                    "abstractive": ["줄인 말."],
                }
            ]
        },
        "train_original.json",
        [("제목\n하나. 둘.\n셋.", {"document": "327827480", "title": "제목", "category": "종합", "media": "한강신문"})],
    ),
    "aihub93": (
        {
            "passage_id": "x1",
            "metadata": {"doc_name": "책 이름", "author": "글쓴이"},
            "chapter": "1장",
            "passage": "구절이다.",
            "summary": "줄임.",
        },
        "책.json",
        [("구절이다.", {"document": "x1", "title": "책 이름", "chapter": "1장", "author": "글쓴이"})],
    ),
    "aihub90": (
        {
            "data": [
                {
                    "doc_id": "A1",
                    "title": "논문 제목",
                    "date": "2010",
                    "summary_entire": [{"orginal_text": "첫 글. 끝.", "summary_text": "줄임."}],
                    "summary_section": [{"orginal_text": "첫 글."}, {"original_text": "다른 글."}],
                }
            ]
        },
        "논문.json",
        [("논문 제목\n첫 글. 끝.\n다른 글.", {"document": "A1", "title": "논문 제목", "date": "2010"})],
    ),
    "aihub-sns": (
        {
            "numberOfItems": 1,
            "data": [
                {
                    "header": {"dialogueInfo": {"dialogueID": "d1", "topic": "여가"}},
                    "body": [
                        {"participantID": "P01", "utterance": "안녕 ㅋㅋ"},
                        {"participantID": "P01", "utterance": "#@시스템#사진#"},
                        {"participantID": "P02", "utterance": "#@이름#이도? #@이모티콘#"},
                    ],
                }
            ],
        },
        "여가.json",
        [("안녕 ㅋㅋ\n#@이름#이도?", {"document": "d1", "topic": "여가"})],
    ),
    "aihub86": (
        [
            {
                "profile": {"persona-id": "p", "emotion": {"type": "E18"}},
                "talk": {
                    "id": {"talk-id": "t1"},
                    "content": {"HS01": "슬퍼.", "SS01": "왜요?", "SS02": "", "HS02": "비가 와서.", "HS10": "끝."},
                },
            }
        ],
        "감성대화말뭉치(최종데이터)_Training.json",
        [("슬퍼.\n왜요?\n비가 와서.\n끝.", {"document": "t1", "emotion": "E18"})],
    ),
    "aihub-dialect": (
        {
            "id": "DJ1",
            "metadata": {"title": "제주 대화", "topic": "일상"},
            "speaker": [{"id": "1", "principal_residence": "제주"}, {"id": "2", "principal_residence": "제주"}],
            "utterance": [
                {
                    "form": "(그르믄)/(그러면) 옵서",
                    "standard_form": "그러면 오세요",
                    "dialect_form": "그르믄 옵서",
                    "speaker_id": "1",
                },
                {"form": "(무사)/(왜) {laughing}", "standard_form": "왜", "speaker_id": "2"},
                {"form": "(())", "dialect_form": "(())", "standard_form": "(())"},
            ],
        },
        "DJ1.json",
        [("그르믄 옵서\n무사", {"document": "DJ1", "title": "제주 대화", "topic": "일상", "residence": "제주"})],
    ),
    "aihub71748": ({"data_info": [{"data_id": 1, "contents": "긴 글이다."}]}, "1.json", [("긴 글이다.", {})]),
    "nikl-written": (
        {
            "id": "NWRW1900000001",
            "metadata": {"title": "신문 말뭉치", "category": "신문 > 인터넷 신문"},
            "document": [
                {
                    "id": "NWRW1900000001.1",
                    "metadata": {
                        "title": "한강일보 2009년 기사",
                        "author": "기자",
                        "publisher": "한강일보",
                        "date": "20090101",
                        "topic": "사회",
                    },
                    "paragraph": [{"id": "1", "form": "머리기사 제목"}, {"id": "2", "form": "기사의 첫 문단이다."}],
                }
            ],
        },
        "NWRW1900000001.json",
        [
            (
                "머리기사 제목\n기사의 첫 문단이다.",
                {
                    "document": "NWRW1900000001.1",
                    "category": "신문 > 인터넷 신문",
                    "title": "한강일보 2009년 기사",
                    "author": "기자",
                    "publisher": "한강일보",
                    "date": "20090101",
                    "topic": "사회",
                },
            )
        ],
    ),
    "nikl-spoken": (
        {
            "id": "SDRW1",
            "document": [{"id": "SDRW1.1", "metadata": {"topic": "NA", "speaker": []}, "utterance": CONVERSATION}],
        },
        "SDRW1.json",
        [("밥 먹었니?\n응 먹었어.", {"document": "SDRW1.1"})],
    ),
}


def encoded(content: Any, encoding: str = "utf-8") -> bytes:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return text.encode(encoding)


def stream(content: Any, encoding: str = "utf-8") -> io.BufferedReader:
    data = content if isinstance(content, bytes) else encoded(content, encoding)
    return io.BufferedReader(io.BytesIO(data), 1 << 17)


def read(schema: str, content: Any, encoding: str = "utf-8") -> tuple[list[Raw], dict[str, int]]:
    met: dict[str, int] = {}
    return list(aihub.read(schema, stream(content, encoding), met)), met


def texts(schema: str, content: Any) -> list[str]:
    return [raw.text for raw in read(schema, content)[0]]


def test_there_is_a_sample_of_each_schema() -> None:
    assert list(SAMPLES) == list(SCHEMAS)
    for key, schema in SCHEMAS.items():
        assert schema.key == key
        assert (
            schema.data_set == key.removesuffix("-json").removesuffix("-tsv").removesuffix("-label")
            or schema.data_set == "nikl"
        )
        assert "not to be passed on" in schema.licence and schema.title in schema.licence


@pytest.mark.parametrize("key", SAMPLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949"])
def test_documents_in_every_encoding(key: str, encoding: str) -> None:
    content, name, wanted = SAMPLES[key]
    assert detect(head_of(stream(content, encoding)), name) == key
    raws, _ = read(key, content, encoding)
    assert [(raw.text, raw.meta, raw.fault) for raw in raws] == [(text, meta, "") for text, meta in wanted]


@pytest.mark.parametrize("key", SAMPLES)
def test_detection_needs_no_name_and_no_end(key: str) -> None:
    """624 and 625 look the same; everything else is told by a beginning of its content."""
    content, _, _ = SAMPLES[key]
    text = encoded(content).decode()
    assert detect(text, "") == ("aihub624-label" if key == "aihub625" else key)
    if not isinstance(content, list):
        longer = json.dumps(content, ensure_ascii=False, indent=4) if isinstance(content, dict) else text * 9
        assert detect(longer[:-10], "x") == detect(text, "")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.json", "aihub624-label"), ("031.온라인 구어체 말뭉치 데이터/TL1.zip:a.json", "aihub625")],
)
def test_624_and_625_are_told_by_the_name(name: str, wanted: str) -> None:
    assert detect(json.dumps(WEB_LABEL), name) == wanted


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{"text": "글", "paragraphs": [{"sentences": []}]}\n{"text": "글"}', "a.jsonl"),
        ('{"text": "글", "id": 1}\n{"text": "글", "id": 2}', "a.jsonl"),
        ('{"document": "좋은 영화", "label": 1}', "nsmc.jsonl"),
        ('{"passage": "글", "question": "물음"}', "boolq.jsonl"),
        ('{"content": "글", "title": "제목"}', "a.jsonl"),
        ('{"data": [{"title": "제목", "paragraphs": [{"context": "글", "qas": []}]}]}', "KorQuAD.json"),
        ('{"title": "제목", "paragraphs": [{"context": "글"}]}', "a.json"),
        ('{"utterance": "말"}', "a.jsonl"),
        ('{"documents": [{"text": "글"}]}', "a.json"),
        ('{"quoted": "{\\"paragraphs\\": [{\\"sentences\\": []}]}"}', "a.json"),
        ('["글", "글"]', "a.json"),
        ("[속보] 비가 온다.\n", "a.txt"),
        ("{", "a.json"),
        ("", "a.json"),
        ("글 한 줄\n또 한 줄\n", "a.txt"),
        ("id\ttext\tlabel\n1\t글\t0\n", "a.tsv"),
        ("id\ttext\ta\tb\tc\td\n1.2.3\t글\t0\t0\t0\t0\n", "a.tsv"),
        ("0.25\t글\t1\t2\t3\t4\n0.5\t글\t1\t2\t3\t4\n", "a.tsv"),
        ("2021.01.05\t글\t1\t2\t3\t4\n", "a.tsv"),
        ("10.0.0.1\t글\t1\t2\t3\t4\n", "a.tsv"),
        ("a.b.c\t12.5\t1\t2\t3\t4\n", "a.tsv"),
        ("a.b.c\t글\t1\t2\t3\t4\nd\t글\t1\t2\t3\t4\n", "a.tsv"),
        ("653.1.0\t글\t1\n", "810_DATA.tsv"),
    ],
)  # fmt: skip
def test_what_is_none_of_them(content: str, name: str) -> None:
    assert detect(content, name) == ""


def test_rows_of_653_that_only_the_name_tells() -> None:
    """Ids of two numbers look like decimals, and a damaged first line like anything."""
    rows = "653.1\t글.\t810\t2001\t1950\t작가\n653.1\t글.\t810\t2001\t1950\t작가\n"
    assert [detect(rows, name) for name in ("x.tsv", "sample/000_DATA.tsv")] == ["", "aihub653-tsv"]
    assert [detect("조각\n" + ROWS, name) for name in ("x.tsv", "000_DATA.tsv")] == ["", "aihub653-tsv"]
    assert detect(ROWS.replace("\n", "\r\n"), "x.txt") == "aihub653-tsv"
    assert detect(ROWS[:-30], "x.txt") == "aihub653-tsv"  # the second line is cut off


def test_files_without_text_are_skipped() -> None:
    info = '{"id": "810", "info": {"kdc": "810"}, "statistics": {"paragraphs": 3}}'
    assert detect(info, "whatever.json") == "skip"
    assert detect('{"name": "810"}', "TL_810/810_INFO.json") == "skip"
    assert detect(json.dumps({"paragraphs": [BOOK]}), "810_INFO.json") == "aihub653-json"
    assert read("aihub653-json", info) == ([], {"metadata only": 1})


def test_an_empty_list_has_no_documents() -> None:
    assert detect('{"paragraphs": []}', "a.json") == "aihub653-json"
    assert read("aihub653-json", '{"paragraphs": []}') == ([], {})
    assert read("nikl-written", '{"id": 1, "document": []}') == ([], {})


OTHERS = [key for key in SAMPLES if key != "aihub625"]


@pytest.mark.parametrize("forced", SAMPLES)
def test_a_forced_schema_that_does_not_fit(forced: str) -> None:
    """Against every other schema, and against what is none."""
    for key in OTHERS:
        if key == forced or {key, forced} == {"aihub624-label", "aihub625"}:
            continue
        with pytest.raises(UnreadableError, match=f"not {forced}, but {key}: leave --schema out"):
            read(forced, SAMPLES[key][0])
    for content in ("글 한 줄\n또 한 줄\n", '{"a": 1}\n'):
        # 93 and 86 take any object for a record, so it is the record that does not fit.
        if content[0] == "{" and forced in ("aihub93", "aihub86"):
            assert [raw.fault[:3] for raw in read(forced, content)[0]] == ["no "]
            continue
        with pytest.raises(UnreadableError, match=f"not {forced}"):
            read(forced, content)


def test_an_unknown_schema_is_a_mistake() -> None:
    with pytest.raises(Mistake, match="--schema aihub1: unknown; there are aihub653-json, aihub653-tsv, "):
        read("aihub1", "{}")


# 653


def test_text_or_original_text_is_counted() -> None:
    sentences = [
        {"text": "고친 문장."},
        {"text": None, "original_text": "원문."},
        {"text": " ", "original_text": " 원문 둘. "},
    ]
    raws, met = read(
        "aihub653-json", {"paragraphs": [{"sentences": sentences}, {"sentences": [{"original_text": "원문 셋."}]}]}
    )
    assert [raw.text for raw in raws] == ["고친 문장. 원문. 원문 둘.", "원문 셋."]
    assert met == {"text": 1, "original_text": 3}


def book(name: Any, text: str, **changed: Any) -> dict[str, Any]:
    info = {"kdc": "813", "published_year": "2001", "author": {"birth_year": "1950", "jobs": ["작가"]}, **changed}
    return {"id": name, "info": info, "sentences": [{"text": text}]}


def test_paragraphs_that_belong_together() -> None:
    def together(*paragraphs: dict[str, Any]) -> tuple[list[str], int]:
        raws, met = read("aihub653-json", {"paragraphs": paragraphs})
        return [raw.text for raw in raws], met.get("joined", 0)

    assert together(book("b1", "가."), book("b1", "나."), book("b1", "다."), book("b2", "라.")) == (
        ["가.\n나.\n다.", "라."],
        2,
    )
    assert together(book(7, "가."), book(7, "나.")) == (["가.\n나."], 1)
    # One id, other metadata; no id at all.
    assert together(book("b1", "가."), book("b1", "나.", kdc="810")) == (["가.", "나."], 0)
    assert together(book("", "가."), book("", "나.")) == (["가.", "나."], 0)
    # A run of ids with a number before the counter, and all that is said of a book.
    assert together(book("B12-7", "가."), book("B12-8", "나."), book("B12-10", "다.")) == (["가.\n나.", "다."], 1)
    assert together(book("12.0099", "가."), book("12.0100", "나.")) == (["가.\n나."], 1)
    assert together(book("B12-7", "가."), book("B13-8", "나.")) == (["가.", "나."], 0)
    assert together(book("B12-8", "가."), book("B12-7", "나.")) == (["가.", "나."], 0)
    assert together(book("B12-7", "가.", author={}), book("B12-8", "나.", author={})) == (["가.", "나."], 0)
    assert together(book("B12-7", "가."), book("B12-8", "나.", published_year="2002")) == (["가.", "나."], 0)
    # A counter alone runs on from book to book.
    assert together(book("00000007", "가."), book("00000008", "나.")) == (["가.", "나."], 0)
    assert together(book("p7", "가."), book("p8", "나.")) == (["가.", "나."], 0)


def test_a_joined_document_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aihub, "LONGEST", 5)
    paragraphs = [book("b1", text) for text in ("가", "나", "다라", "마바사아자차")]
    assert texts("aihub653-json", {"paragraphs": paragraphs}) == ["가\n나", "다라", "마바사아자", "차"]


def test_a_joined_document_has_so_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aihub, "PIECES", 2)
    assert texts("aihub653-json", {"paragraphs": [book("b1", text) for text in "가나다"]}) == ["가\n나", "다"]
    assert texts("aihub653-tsv", ROWS + ROWS) == ['그는 "가자 하고 말했다. 둘째 문장.'] * 2


def test_rows_of_a_document() -> None:
    rows = [
        *ROWS.strip().split("\n"),
        "두 동강 난 줄",
        "653.13.0\t다른 글.\t갈래\t2001\t1950\t작가\t일곱째",
        "",
        "653.12.2\t돌아온 글.\t810\t이천년\t1950\t작가",
        "654.12.0\t다른 책.\t810\t2001\t\t",
    ]
    raws, met = read("aihub653-tsv", "\r\n".join(rows), "utf-8-sig")
    assert [(raw.text, raw.fault, raw.meta) for raw in raws] == [
        ("두 동강 난 줄", "broken line", {"line": 3}),
        ('그는 "가자 하고 말했다. 둘째 문장.', "", SAMPLES["aihub653-tsv"][2][0][1]),
        ("다른 글.", "", {"document": "13"}),
        ("돌아온 글.", "", {"document": "12"}),
        ("다른 책.", "", {"document": "12", "kdc": "810", "year": "2001"}),
    ]
    assert met == {"documents with metadata": 2, "6 columns": 4, "7 columns": 1, "1 columns": 2}


# The others, where they may be spelled in two ways


def test_sections_of_a_paper_and_entries_of_one() -> None:
    def entry(name: str | None, *texts: str, title: str = "제목") -> dict[str, Any]:
        return {
            "doc_id": name,
            "title": title,
            "summary_entire": [{"orginal_text": text} for text in texts],
            "summary_section": None,
        }

    raws, met = read(
        "aihub90",
        {"data": [entry("A", "하나."), entry("A", "둘."), entry("B", "셋."), entry(None, "넷."), entry(None, "다섯.")]},
    )
    assert [raw.text for raw in raws] == ["제목\n하나.\n둘.", "제목\n셋.", "제목\n넷.", "제목\n다섯."]
    assert met == {"orginal_text": 5, "summary_entire": 5, "joined": 1}
    only = {"data": [{"doc_id": "A", "summary_section": [{"original_text": "가."}, {"orginal_text": "나."}]}]}
    raws, met = read("aihub90", only)
    assert [raw.text for raw in raws] == ["가.\n나."]
    assert met == {"original_text": 1, "orginal_text": 1, "summary_section": 2}


def test_web_articles_with_strings_in_place_of_sentences() -> None:
    articles = [
        {"title": "제목", "content": "글 하나."},
        {"content": ["하나.", {"sentence": "둘."}]},
        {"title": None, "content": []},
    ]
    assert texts("aihub625", {"named_entity": articles}) == ["제목\n글 하나.", "하나. 둘.", ""]


def test_news_with_and_without_paragraphs() -> None:
    entries = [
        {"title": "제목", "text": [{"sentence": "하나."}, {"sentence": "둘."}]},
        {"text": "통째."},
        {"title": "제목", "text": None},
    ]
    assert texts("aihub97", {"documents": entries}) == ["제목\n하나.\n둘.", "통째.", "제목"]


def test_passages_in_one_list() -> None:
    passages = [{"chapter": "1", "passage": "하나."}, {"chapter": "2", "passage": "둘."}]
    assert detect(json.dumps(passages), "") == "aihub93"
    assert texts("aihub93", passages) == ["하나.", "둘."]
    assert texts("aihub93", "\n".join(json.dumps(passage) for passage in passages)) == ["하나.", "둘."]


def test_forms_of_an_utterance() -> None:
    spoken = [
        {"form": "", "original_form": "머라고?"},
        {"original_form": "응."},
        {"form": "그래.", "original_form": "구래."},
    ]
    raws, met = read("nikl-spoken", {"document": [{"id": "MDRW1.1", "utterance": spoken}]})
    assert [raw.text for raw in raws] == ["머라고?\n응.\n그래."]
    assert met == {"original_form": 2, "form": 1}
    dialect = [{"form": "가", "dialect_form": None}, {"standard_form": "나"}, {"dialect_form": "다", "form": "라"}]
    raws, met = read("aihub-dialect", {"utterance": dialect})
    assert [(raw.text, raw.meta) for raw in raws] == [("가\n나\n다", {})]
    assert met == {"form": 1, "standard_form": 1, "dialect_form": 1}


def test_headlines_are_counted_and_books_have_none() -> None:
    assert read("nikl-written", SAMPLES["nikl-written"][0])[1] == {"form": 2, "headlines": 1}
    paper = {"document": [{"id": "WARW1.1", "paragraph": [{"form": "글."}, {"form": ""}, {"original_form": "또 글."}]}]}
    raws, met = read("nikl-written", paper)
    assert [raw.text for raw in raws] == ["글.\n또 글."]
    assert met == {"form": 1, "original_form": 1}


def test_one_document_in_place_of_a_list() -> None:
    content = {"id": "SBRW1", "document": {"id": "SBRW1.1", "utterance": CONVERSATION}}
    assert detect(json.dumps(content), "") == "nikl-spoken"
    assert texts("nikl-spoken", content) == ["밥 먹었니?\n응 먹었어."]


@pytest.mark.parametrize(
    ("heard", "wanted"),
    [
        ("아 {laughing} 진짜", "아 진짜"),
        ("{clearing}네", "네"),
        ("{share:photo}", ""),
        ("{system: gift} 고마워", "고마워"),
        ("그 (()) 사람이", "그 사람이"),
        ("그 ((xx)) 사람", "그 사람"),
        ("((그래서)) 갔지", "그래서 갔지"),
        ("(그르믄)/(그러면) 옵서", "그르믄 옵서"),
        ("((무사))  왔수과", "무사 왔수과"),
        # What stays: names that were taken out, brackets and dashes of ordinary writing.
        ("&name1&이가 왔어", "&name1&이가 왔어"),
        ("&company-name&에서", "&company-name&에서"),
        ("그- 그러니까~ 뭐", "그- 그러니까~ 뭐"),
        ("한 번 (두 번) {세 번}", "한 번 (두 번) {세 번}"),
        ("x = {1}", "x = {1}"),
        ("1/2 (반)", "1/2 (반)"),
        ("두  칸", "두  칸"),
        ("힘들다 ((ㅠㅠ))", "힘들다 ((ㅠㅠ))"),
    ],
)
def test_marks_of_a_transcriber(heard: str, wanted: str) -> None:
    raws, met = read("nikl-spoken", {"document": [{"utterance": [{"form": heard}]}]})
    assert [raw.text for raw in raws] == [wanted]
    assert met.get("utterances with marks", 0) == (heard != wanted)


@pytest.mark.parametrize(
    ("heard", "wanted"),
    [
        ("#@이모티콘#하트# 좋아", "좋아"),
        ("#@시스템#동영상##@이모티콘#", ""),
        ("좋아 #@이모티콘#ㅋㅋ#@이름#", "좋아 ㅋㅋ#@이름#"),
        ("#@이름#이랑 #@주소#에서", "#@이름#이랑 #@주소#에서"),
        ("#맛집 #여행", "#맛집 #여행"),
    ],
)
def test_marks_of_a_messenger(heard: str, wanted: str) -> None:
    assert texts("aihub-sns", {"data": [{"body": [{"utterance": heard}]}]}) == [wanted]


# What can be wrong

LISTS = {
    "aihub653-json": ("paragraphs", "sentences"),
    "aihub624-label": ("named_entity", "content"),
    "aihub110": ("data", "rows"),
    "aihub97": ("documents", "text"),
    "aihub-sns": ("data", "body"),
    "aihub71748": ("data_info", "contents"),
    "nikl-written": ("document", "paragraph"),
    "nikl-spoken": ("document", "utterance"),
}
MISSING = ("no text", "no sentence", "no utterance", "no form")


@pytest.mark.parametrize("key", LISTS)
def test_records_that_do_not_fit_are_kept_aside(key: str) -> None:
    """Each stands between two good records, which are read."""
    path, inner = LISTS[key]
    good = SAMPLES[key][0][path][0]
    text, meta = SAMPLES[key][2][0]
    meta = {name: value for name, value in meta.items() if name != "category" or key == "aihub97"}
    bad: list[Any] = [
        {"id": "q"},
        {**good, inner: 7},
        {**good, inner: [1, 2]},
        {**good, inner: {"a": 1}},
        {**good, inner: [{"a": 1}]},
        "글",
        3,
        None,
        [],
        [good],
    ]
    for record in bad:
        raws, _ = read(key, {path: [good, record, {**good, "id": "other"}]})
        fault, first, last = sorted(raws, key=lambda raw: not raw.fault)  # a document of 653 waits for its like
        assert (first.text, first.meta, first.fault, last.text, last.fault) == (text, meta, "", text, ""), record
        assert fault.fault in (f"no {inner}", "wrong types", *MISSING), record
        assert json.loads(fault.text) == record


def test_metadata_of_other_types_costs_no_text() -> None:
    wrong: list[Any] = [None, 7, "글", [], {"author": 3}, {"kdc": {}, "author": {"jobs": {"a": 1}, "birth_year": [[]]}}]
    for info in wrong:
        raws, _ = read("aihub653-json", {"paragraphs": [{**BOOK, "id": None, "info": info}]})
        assert [(raw.text, raw.meta, raw.fault) for raw in raws] == [("첫 문장. 둘째 문장.", {}, "")]
    content = {"id": ["x"], "metadata": 3, "speaker": "나", "utterance": [{"form": "가"}]}
    assert [(raw.text, raw.meta) for raw in read("aihub-dialect", content)[0]] == [("가", {})]


def test_metadata_is_short() -> None:
    content = {"data": [{"title": "제" * 5000, "id": float("nan"), "rows": [{"text": "글."}]}]}
    assert [raw.meta for raw in read("aihub110", content)[0]] == [{"title": "제" * 300}]


def test_half_a_surrogate_pair_can_be_written() -> None:
    good, bad = b'{"id": "\\ud83d", "sentences": [{"text": "\\ud83d\\ude00 \\ud83d"}]}', b'{"sentences": "\\ud83d"}'
    content = b'{"paragraphs": [' + good + b", " + bad + b"]}"
    raws, _ = read("aihub653-json", content)
    assert [(raw.text, raw.meta, raw.fault) for raw in raws] == [
        ('{"sentences": "\ufffd"}', {}, "wrong types"),
        ("😀 \ufffd", {"document": "\ufffd"}, ""),
    ]


def until_the_end(key: str, source: io.BufferedReader) -> tuple[list[str], str]:
    found = []
    try:
        for raw in aihub.read(key, source, {}):
            found.append(raw.text)
    except (UnreadableError, OSError) as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize(
    "key", [key for key in SAMPLES if key not in ("aihub653-tsv", "aihub93", "aihub624", "aihub-dialect")]
)
def test_a_file_that_is_cut_off_gives_what_came_before(key: str) -> None:
    content, _, wanted = SAMPLES[key]
    holder = (
        content if isinstance(content, list) else next(value for value in content.values() if isinstance(value, list))
    )
    whole = json.dumps(holder[0], ensure_ascii=False)
    text = json.dumps(content, ensure_ascii=False)
    cut = text[: text.index(whole)] + f"{whole}, {whole[:-5]}"
    assert until_the_end(key, stream(cut)) == ([wanted[0][0]], f"invalid JSON: cut off after {len(cut)} characters")
    spoilt = text[: text.index(whole)] + f"{whole}, {{oops}}, {whole}" + text[text.index(whole) + len(whole) :]
    found, cause = until_the_end(key, stream(spoilt))
    assert found == [wanted[0][0]]
    assert cause.startswith(f"invalid JSON at character {text.index(whole) + len(whole) + 3}")


class Pieces(io.RawIOBase):
    """A file as long as one likes, made while it is read."""

    def __init__(self, pieces: Iterator[bytes]):
        self.pieces, self.rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.rest = self.rest or next(self.pieces, b"")
        data, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class Broken(io.BytesIO):
    """A member whose checksum is wrong: the error comes with the last read."""

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if not count:
            raise OSError("bad checksum")
        return count


def test_conversations_and_rows_that_are_cut_off() -> None:
    dialect = '{"id": "D", "utterance": [{"form": "가", "dialect_form": "가"}, {"form": 3}, {"form": "나"}, {"fo'
    found, cause = until_the_end("aihub-dialect", stream(dialect))
    assert (found, cause) == (['{"form": 3}', "가\n나"], f"invalid JSON: cut off after {len(dialect)} characters")
    found, cause = until_the_end("aihub653-tsv", io.BufferedReader(Broken(ROWS.encode())))
    assert (found, cause) == (['그는 "가자 하고 말했다. 둘째 문장.'], "bad checksum")


def test_a_record_longer_than_a_document_goes_on_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aihub, "LONGEST", 4)
    raws, _ = read("aihub71748", {"data_info": [{"id": 1, "contents": "가나다라마바사아자"}, {"contents": "가나다라"}]})
    notes = {"document": "1"}
    assert [(raw.text, raw.meta) for raw in raws] == [
        ("가나다라", notes),
        ("마바사아", notes),
        ("자", notes),
        ("가나다라", {}),
    ]
    assert texts("aihub-dialect", {"utterance": [{"form": "가나"}, {"form": "다"}, {"form": "라마"}]}) == [
        "가나",
        "다",
        "라마",
    ]
    assert texts("aihub653-tsv", "a.1.0\t가\t\t\t\t\na.1.1\t나\t\t\t\t\na.1.2\t다\t\t\t\t\n") == ["가 나", "다"]


def test_json_nested_too_deeply() -> None:
    deep = '{"data_info": [{"contents": "글."}, {"contents": ' + "[" * 2000 + "]" * 2000 + "}]}"
    found, cause = until_the_end("aihub71748", stream(deep))
    assert found == ["글."]
    assert "nested too deeply" in cause
    found, cause = until_the_end("aihub71748", stream(deep.replace("[" * 2000 + "]" * 2000, "[" * 400 + "]" * 400)))
    assert (found[0], cause) == ("글.", "")


def test_memory_does_not_grow_with_the_file() -> None:
    """60 MB, of which less than 4 MB are held at once: a chunk, a record, and a document that waits for its like."""
    paragraph = json.dumps(book("<id>", "이것은 조금 긴 문장이다. " * 300), ensure_ascii=False).encode()
    count = 60_000_000 // len(paragraph)

    def pieces() -> Iterator[bytes]:
        for number in range(count):
            yield (b"," if number else b'{"paragraphs": [') + paragraph.replace(b"<id>", str(number).encode())
        yield b"]}"

    tracemalloc.start()
    raws = aihub.read("aihub653-json", io.BufferedReader(Pieces(pieces()), 1 << 17), {})
    assert sum(raw.text.startswith("이것은") for raw in raws) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


SPOILERS = [
    b"",
    b"\0",
    b"\xff",
    b'"',
    b"{",
    b"[",
    b"]",
    b"}",
    b"\\",
    b",",
    b"null",
    b"NaN",
    b"\\ud83d",
    b"9" * 5000,
    b"\t",
    b"\n",
]


@pytest.mark.parametrize("key", SAMPLES)
def test_whatever_is_spoilt_no_reader_breaks_down(key: str) -> None:
    """100 times, one to four places: documents that can be written, and one kind of error."""
    rng = random.Random(key)
    for _ in range(100):
        data = encoded(SAMPLES[key][0], rng.choice(["utf-8", "utf-16", "cp949"]))
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(data) + 1)
            data = data[:at] + rng.choice(SPOILERS) + data[at + rng.choice([0, 1, 1, 2, 30]) :]
        met: dict[str, int] = {}
        try:
            for raw in aihub.read(key, stream(data), met):
                raw.text.encode()
                assert not raw.fault or raw.fault.startswith(("no ", "wrong types", "broken line")), data
                assert all(isinstance(value, str) and value.encode() for value in raw.meta.values()) or raw.fault
        except UnreadableError as error:
            assert str(error).isprintable() and len(str(error)) < 600
