"""AIHub and NIKL sets -> documents: which set a file is of, by what it holds, and its documents, one after another.

A document is what a writer would call one: a paragraph, an article, a passage, a conversation.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from corpus.bigjson import BigJson, OtherShapeError, head_of, key_paths
from corpus.plain import LONGEST, Raw, lines, written
from corpus.records import MISFITS, Parser, notes, same_book, same_paper
from corpus.zips import UnreadableError
from narae.log import Mistake

_KDC, _YEAR = re.compile(r"\d{3}"), re.compile(r"1[5-9]\d\d|20\d\d")
PIECES = 1 << 18  # utterances or sentences of a document: empty ones take memory, too
Met = dict[str, int]
Reader = Callable[[io.BufferedReader, Met], Iterator[Raw]]
Belong = Callable[[dict[str, str], dict[str, str]], bool]


def records(parse: Callable[[Parser, Any], Raw], *path: str, belong: Belong | None = None) -> Reader:
    """The reader of a file whose records lie in the list below these keys."""

    def read(stream: io.BufferedReader, met: Met) -> Iterator[Raw]:
        big = BigJson(stream)
        raws = each(big.records(*path), partial(parse, Parser(met, big.outer)))
        return joined(raws, belong, met) if belong else raws

    return read


def each(found: Iterable[Any], parse: Callable[[Any], Raw]) -> Iterator[Raw]:
    for record in found:
        try:
            raw = parse(record)
        except MISFITS as error:
            raw = misfit(record, error)
        yield raw


def misfit(record: Any, error: Exception) -> Raw:
    """What is not of its schema is kept aside, and the next record read."""
    fault = f"no {error.args[0]}" if isinstance(error, KeyError) else "wrong types"
    try:
        return Raw(written(json.dumps(record, ensure_ascii=False)), fault=fault)
    except RecursionError:
        return Raw("", fault=fault)


def joined(raws: Iterable[Raw], belong: Belong, met: Met) -> Iterator[Raw]:
    """Neighbours whose metadata says that they belong together are one document, up to a size."""
    held: list[Raw] = []
    size = 0

    def whole() -> Raw:
        return held[0] if len(held) == 1 else Raw("\n".join(raw.text for raw in held), held[0].meta)

    try:
        for raw in raws:
            if raw.fault:
                yield raw
                continue
            size += len(raw.text) + 1
            if held and (size > LONGEST or len(held) == PIECES or not belong(held[-1].meta, raw.meta)):
                yield whole()
                held, size = [], len(raw.text) + 1
            elif held:
                met["joined"] = met.get("joined", 0) + 1
            held.append(raw)
    except Exception:  # damage: what came before it is good
        if held:
            yield whole()
        raise
    if held:
        yield whole()


def read_dialect(stream: io.BufferedReader, met: Met) -> Iterator[Raw]:
    """A file is a conversation, up to a size."""
    big = BigJson(stream)
    parser = Parser(met, big.outer)
    utterances = each(big.records("utterance"), parser.utterance)
    for raw in joined(utterances, lambda last, meta: True, {}):
        yield raw if raw.fault else parser.dialect(raw.text)


def read_rows(stream: io.BufferedReader, met: Met) -> Iterator[Raw]:
    """653 as TSV: consecutive lines of one document id. Quotes mean nothing: a sentence may hold a single one."""
    held: list[str] = []
    document: list[str] = []
    meta: dict[str, str] = {}
    size = 0
    widths: Counter[int] = Counter()
    try:
        for number, line in enumerate(lines(stream), start=1):
            columns = line.split("\t")
            widths[len(columns)] += 1
            path = columns[0].split(".", 2)[:2]
            if len(columns) < 6 or len(path) < 2:
                if line.strip():
                    yield Raw(line, {"line": number}, "broken line")
                continue
            size += len(columns[1]) + 1
            if held and (path != document or size > LONGEST or len(held) == PIECES):
                yield Raw(" ".join(held), meta)
                held, size = [], len(columns[1]) + 1
            if not held:
                document, meta = path, row_notes(path[1], columns, met)
            held.append(columns[1].strip())
    except Exception:  # damage: what came before it is good
        if held:
            yield Raw(" ".join(held), meta)
        raise
    finally:
        for width, number in widths.items():
            met[f"{width} columns"] = met.get(f"{width} columns", 0) + number
    if held:
        yield Raw(" ".join(held), meta)


def row_notes(document: str, columns: list[str], met: Met) -> dict[str, str]:
    """The columns have no names. Where they look like the four things that the JSON says of a book, they are these."""
    if not _KDC.fullmatch(columns[2]) or not _YEAR.fullmatch(columns[3]):
        return notes(document)
    met["documents with metadata"] = met.get("documents with metadata", 0) + 1
    return notes(document, kdc=columns[2], year=columns[3], birth_year=columns[4], jobs=columns[5])


@dataclass(frozen=True)
class Schema:
    """`data_set`: the front of its documents' ids. `signs`: keys that tell it, all those of one string."""

    key: str
    title: str
    data_set: str
    read: Reader
    signs: tuple[str, ...] = ()

    @property
    def licence(self) -> str:
        house = "국립국어원" if self.data_set == "nikl" else "AIHub"
        return f"{house}, {self.title}: for learning only, not to be passed on, the source to be named"


BOOKS, WEB = "653 대규모 구매도서 기반 한국어 말뭉치", "624 웹데이터 기반 한국어 말뭉치"
labelled = records(Parser.web_label, "named_entity")
SCHEMAS = {
    schema.key: schema
    for schema in (
        Schema(
            "aihub653-json",
            BOOKS,
            "aihub653",
            records(Parser.book, "paragraphs", belong=same_book),
            ("paragraphs[].sentences",),
        ),
        Schema("aihub653-tsv", BOOKS, "aihub653", read_rows),
        Schema("aihub624", WEB, "aihub624", records(Parser.web_source, "SJML", "text"), ("SJML.text",)),
        Schema("aihub624-label", WEB, "aihub624", labelled, ("named_entity",)),
        Schema("aihub625", "625 온라인 구어체 말뭉치", "aihub625", labelled),
        Schema("aihub110", "110 전문분야 말뭉치", "aihub110", records(Parser.expert, "data"), ("data[].rows[].text",)),
        Schema(
            "aihub97",
            "97 문서요약 텍스트",
            "aihub97",
            records(Parser.news, "documents"),
            ("documents[].text[][].sentence", "documents[].text documents[].abstractive"),
        ),
        Schema(
            "aihub93",
            "93 도서자료 요약",
            "aihub93",
            records(Parser.passage),
            ("passage metadata", "passage chapter", "[].passage [].metadata", "[].passage [].chapter"),
        ),
        Schema(
            "aihub90",
            "90 논문자료 요약",
            "aihub90",
            records(Parser.paper, "data", belong=same_paper),
            ("data[].summary_entire", "data[].summary_section"),
        ),
        Schema("aihub-sns", "한국어 SNS", "aihub-sns", records(Parser.chat, "data"), ("data[].body[].utterance",)),
        Schema("aihub86", "86 감성대화", "aihub86", records(Parser.counselling), ("[].talk.content", "talk.content")),
        Schema(
            "aihub-dialect",
            "118-122 한국어 방언 발화",
            "aihub-dialect",
            read_dialect,
            ("utterance[].dialect_form", "utterance[].standard_form"),
        ),
        Schema(
            "aihub71748",
            "71748 초거대AI 말뭉치",
            "aihub71748",
            records(Parser.contents, "data_info"),
            ("data_info[].contents",),
        ),
        Schema(
            "nikl-written",
            "모두의 말뭉치 (문어, 신문)",
            "nikl",
            records(Parser.written, "document"),
            ("document[].paragraph", "document.paragraph"),
        ),
        Schema(
            "nikl-spoken",
            "모두의 말뭉치 (구어, 메신저)",
            "nikl",
            records(Parser.spoken, "document"),
            ("document[].utterance", "document.utterance"),
        ),
    )
}

_INFO = re.compile(r"_INFO\.json$", re.IGNORECASE)
_COLLOQUIAL = re.compile(r"구어체|(?:^|/)BO[A-Z]{2}\d{12}\.json$")
_DATA = re.compile(r"(?:^|/)\d+_DATA\.tsv$", re.IGNORECASE)
_ID = re.compile(r"[\w-]+(?:\.[\w-]+)+")
# Numbers, dates and addresses are dotted as well, and stand first in anyone's table.
_NO_ID = re.compile(r"-?\d+\.\d+|(?:19|20)\d\d\.\d\d?\.\d\d?|(?:\d{1,3}\.){3}\d{1,3}")


def detect(head: str, name: str) -> str:
    """The schema of a file by how it begins: "skip" where it only tells of other files, "" where it is none of these.

    The name decides between 624 and 625, which look the same, and where the content leaves it open.
    """
    text = head.lstrip("\ufeff \t\r\n")
    if text[:1] not in ("{", "["):
        return "aihub653-tsv" if begins_with_rows(text, bool(_DATA.search(name))) else ""
    paths = key_paths(text)
    if "text" in paths:  # jsonl, whatever else its records hold
        return ""
    for key, schema in SCHEMAS.items():
        if any(paths.issuperset(sign.split()) for sign in schema.signs):
            return "aihub625" if key == "aihub624-label" and _COLLOQUIAL.search(name) else key
    if "paragraphs" in paths and not any(path.startswith("paragraphs[].") for path in paths):
        return "aihub653-json"  # no paragraph at all, or damage that begins there
    top = {path for path in paths if "." not in path and "[" not in path}
    return "skip" if {"info", "statistics"} <= top <= {"id", "info", "statistics"} or _INFO.search(name) else ""


def begins_with_rows(text: str, named: bool) -> bool:
    """Someone else's table begins with a header, 653's has none. Under its usual name one row in five lines will do."""
    first = text.split("\n", 5)[:5]
    if 1 < len(first) < 5:
        first.pop()  # empty, or cut off
    fitting = [is_row(line.split("\t"), named) for line in first]
    return any(fitting) if named else fitting[0] and sum(fitting) * 2 > len(fitting)


def is_row(columns: list[str], named: bool) -> bool:
    """Six or seven columns, the first of them a dotted id, the second a sentence."""
    if len(columns) not in (6, 7) or not _ID.fullmatch(columns[0]):
        return False
    return named or not (_NO_ID.fullmatch(columns[0]) or re.fullmatch(r"[\d.,%-]*", columns[1]))


def read(schema: str, stream: io.BufferedReader, met: Met) -> Iterator[Raw]:
    """The documents of a file. A file of another schema is unreadable, and the error says what it is."""
    if schema not in SCHEMAS:
        raise Mistake(f"--schema {schema}: unknown; there are {', '.join(SCHEMAS)}")
    wanted, head = SCHEMAS[schema], head_of(stream)
    found = detect(head, "")
    if found == "skip":
        met["metadata only"] = met.get("metadata only", 0) + 1
        return
    if found and SCHEMAS[found].read is not wanted.read:
        raise UnreadableError(f"not {schema}, but {found}: leave --schema out, or name this one")
    if wanted.read is read_rows and not begins_with_rows(head.lstrip("\r\n"), named=True):
        raise UnreadableError(f"not {schema}: no line in its first five has six columns and a dotted id in front")
    try:
        for raw in wanted.read(stream, met):
            yield raw if len(raw.text) <= LONGEST else Raw(raw.text[:LONGEST], raw.meta, raw.fault)
            for start in range(LONGEST, len(raw.text), LONGEST):
                yield Raw(raw.text[start : start + LONGEST], raw.meta, raw.fault)
    except OtherShapeError as error:
        raise UnreadableError(f"not {schema}: {error}") from None
