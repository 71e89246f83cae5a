"""A miniature of each kind of source, made of given documents."""

import bz2
import gzip
import io
import json
import lzma
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import pyarrow
import zstandard
from pyarrow import parquet

WHO = "나무꾼은 어머니는 아버지는 선생님은 동생은 누나는 할머니는 이웃은 친구는 농부는 목수는 어부는 화가는".split()
WHERE = "산에서 강가에서 시장에서 마을에서 학교에서 바다에서 들판에서 골목에서 마당에서 부엌에서 다리에서".split()
WHAT = "사과를 편지를 노래를 그림을 책을 나무를 꽃을 물고기를 모자를 우산을 신발을 지도를 상자를 등불을 배를".split()
WHEN = "아침에 저녁에 어제 오늘 봄에 여름에 가을에 겨울에 한낮에 새벽에 주말에 그날".split()
DONE = "찾았다 보냈다 불렀다 그렸다 읽었다 심었다 꺾었다 잡았다 썼다 폈다 닦았다 접었다 열었다 켰다 띄웠다".split()


def tale(draw: Random) -> str:
    """A document of one line that cleaning leaves as it is, and that is like no other."""
    return " ".join(
        f"{draw.choice(WHO)} {draw.choice(WHEN)} {draw.choice(WHERE)} {draw.choice(WHAT)} {draw.choice(DONE)}."
        for _ in range(draw.randint(2, 6))
    )


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=\.) ", text)


# A miniature of each schema: (the name of such a member, what it holds, given its documents).
SCHEMAS: dict[str, tuple[str, Callable[[list[str]], Any]]] = {
    "aihub653-json": (
        "810_TEXT_1.json",
        lambda texts: {
            "paragraphs": [
                {"id": f"p{n}", "info": {"kdc": "810"}, "sentences": [{"text": part} for part in sentences(text)]}
                for n, text in enumerate(texts)
            ]
        },
    ),
    "aihub653-tsv": (
        "810_DATA.tsv",
        lambda texts: "".join(
            f"653.{n}.{m}\t{part}\t810\t2001\t1950\t작가\n"
            for n, text in enumerate(texts)
            for m, part in enumerate(sentences(text))
        ),
    ),
    "aihub624": ("ECO_1.json", lambda texts: {"SJML": {"text": [{"title": "", "content": text} for text in texts]}}),
    "aihub624-label": (
        "ECO_2.json",
        lambda texts: {
            "named_entity": [
                {"title": [], "content": [{"sentence": part} for part in sentences(text)]} for text in texts
            ]
        },
    ),
    "aihub110": (
        "법률.json",
        lambda texts: {"data": [{"id": 1, "rows": [{"text": text, "NE": []}]} for text in texts]},
    ),
    "aihub97": (
        "기사.json",
        lambda texts: {
            "documents": [
                {"id": f"{n}", "text": [[{"sentence": part} for part in sentences(text)]], "abstractive": []}
                for n, text in enumerate(texts)
            ]
        },
    ),
    "aihub93": (
        "도서.json",
        lambda texts: [{"metadata": {"doc_name": "책"}, "chapter": "1", "passage": text} for text in texts],
    ),
    "aihub90": (
        "논문.json",
        lambda texts: {
            "data": [{"doc_id": f"{n}", "summary_entire": [{"orginal_text": text}]} for n, text in enumerate(texts)]
        },
    ),
    "aihub-sns": ("여가.json", lambda texts: {"data": [{"body": [{"utterance": text}]} for text in texts]}),
    "aihub86": (
        "감성대화.json",
        lambda texts: [{"profile": {}, "talk": {"id": {}, "content": {"HS01": text}}} for text in texts],
    ),
    "aihub-dialect": (  # a file is a conversation: here of one utterance
        "DJ1.json",
        lambda texts: {"id": "DJ1", "speaker": [{"id": "1"}], "utterance": [{"form": "", "dialect_form": texts[0]}]},
    ),
    "aihub71748": ("문서.json", lambda texts: {"data_info": [{"contents": text} for text in texts]}),
    "nikl-written": (
        "WARW1.json",
        lambda texts: {"document": [{"id": f"W.{n}", "paragraph": [{"form": text}]} for n, text in enumerate(texts)]},
    ),
    "nikl-spoken": (
        "SDRW1.json",
        lambda texts: {"document": [{"id": f"S.{n}", "utterance": [{"form": text}]} for n, text in enumerate(texts)]},
    ),
    "text": ("글.txt", lambda texts: "\n\n".join(texts) + "\n"),
    "jsonl": (
        "글.jsonl",
        lambda texts: "".join(
            json.dumps({"id": n, "text": text}, ensure_ascii=False) + "\n" for n, text in enumerate(texts)
        ),
    ),
    "csv": ("글.csv", lambda texts: "id,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts))),
    "tsv": ("글.tsv", lambda texts: "id\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(texts))),
}


def table(texts: list[str], key: str) -> bytes:
    buffer, columns = io.BytesIO(), pyarrow.table({"id": list(map(str, range(len(texts)))), "text": texts})
    if key == "parquet":
        parquet.write_table(columns, buffer, row_group_size=3)
    else:
        with pyarrow.ipc.new_stream(buffer, columns.schema) as writer:
            writer.write_table(columns, max_chunksize=3)
    return buffer.getvalue()


PLAIN = ("text", "jsonl", "csv", "tsv", "aihub653-json", "aihub653-tsv")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def encoded(content: Any) -> bytes:
    return (content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)).encode()


class Unflagged(zipfile.ZipInfo):
    """A member whose name is in cp949, or in UTF-8 and decomposed, without the flag that says so."""

    encoding = "cp949"

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - the standard library's name
        return self.filename.encode(self.encoding, "replace"), 0


class Decomposed(Unflagged):
    encoding = "utf-8"


def zipped(members: list[tuple[str, bytes]], draw: Random) -> bytes:
    buffer, kind = io.BytesIO(), draw.choice([zipfile.ZipInfo, zipfile.ZipInfo, Unflagged, Decomposed])
    method = draw.choice(METHODS)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for name, data in members:
            info = kind(unicodedata.normalize("NFD", name) if kind is Decomposed else name)
            archive.writestr(info, data, method)
    return buffer.getvalue()
