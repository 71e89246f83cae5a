"""AIHub 653, the book corpus: its JSON paragraphs and its TSV sentences, as documents."""

import io
import json
from collections.abc import Iterator
from typing import Any

from corpus.plain import LONGEST, Raw, lines, written
from corpus.zips import UnreadableError

LICENCE = "AIHub 653: for learning only, not to be passed on"
# A JSON member is one object, so it is read whole. The real ones are 8 MB on average; past this it is not one of them.
LARGEST_JSON = 512 << 20


def looks_like_tsv(line: str) -> bool:
    """Six or seven columns, the first of them a dotted id."""
    columns = line.split("\t")
    return len(columns) in (6, 7) and "." in columns[0]


def read_json(stream: io.BufferedReader, met: dict[str, int]) -> Iterator[Raw]:
    """A paragraph is a document: the metadata hangs on it, no book id is seen. `met` counts where the text lay."""
    data = stream.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise UnreadableError(f"a JSON member of more than {LARGEST_JSON >> 20} MiB")
    content = parse_json(data)
    paragraphs = content.get("paragraphs") if isinstance(content, dict) else None
    if not isinstance(paragraphs, list):
        raise UnreadableError("JSON without the paragraphs of data set 653")
    for paragraph in paragraphs:
        try:
            texts = []
            for sentence in paragraph["sentences"]:
                key = "text" if sentence.get("text") else "original_text"
                if sentence.get(key):
                    texts.append(sentence[key].strip())
                    met[key] = met.get(key, 0) + 1
            info = paragraph.get("info") or {}
            meta = {"document": paragraph.get("id"), "kdc": info.get("kdc"), "year": info.get("published_year")}
            yield Raw(
                written(" ".join(texts)), {key: written(value) for key, value in meta.items() if value is not None}
            )
        except (KeyError, TypeError, AttributeError):
            yield Raw(written(json.dumps(paragraph, ensure_ascii=False)), fault="no sentences")


def parse_json(data: bytes) -> Any:
    """UTF-8, UTF-16 or cp949; what is none of them gets U+FFFD for its bad bytes, which cleaning rejects."""
    first = json.detect_encoding(data)
    for encoding, errors in ((first, "strict"), ("cp949", "strict"), (first, "replace")):
        try:
            text = data.decode(encoding, errors)
        except UnicodeDecodeError:
            continue
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"invalid JSON ({error})") from None
    raise AssertionError("replacing never fails")


def read_tsv(stream: io.BufferedReader, met: dict[str, int]) -> Iterator[Raw]:
    """Consecutive lines of one document id are a document. Quotes mean nothing: a sentence may hold a single one."""
    sentences: list[str] = []
    current, size = "", 0
    for number, line in enumerate(lines(stream), start=1):
        columns = line.split("\t")
        met[f"{len(columns)} columns"] = met.get(f"{len(columns)} columns", 0) + 1
        path = columns[0].split(".")
        if len(columns) < 6 or len(path) < 2:
            if line.strip():
                yield Raw(line, {"line": number}, "broken line")
            continue
        if sentences and (path[1] != current or size > LONGEST):
            yield Raw(" ".join(sentences), {"document": current})
            sentences, size = [], 0
        current = path[1]
        sentences.append(columns[1].strip())
        size += len(columns[1]) + 1
    if sentences:
        yield Raw(" ".join(sentences), {"document": current})
