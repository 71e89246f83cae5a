"""Tables as documents, a row each: csv and tsv, parquet, the arrow shards of `save_to_disk`, data sets of the Hub."""

import contextlib
import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from corpus.plain import HEAD, LONGEST, META, NOTE, Raw, lines, notes
from corpus.zips import RATIO, SMALL, UnreadableError
from narae.log import Mistake

if TYPE_CHECKING:
    import datasets
    import pyarrow

ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"
BATCH = 8 << 20  # bytes of rows that are taken into memory at once
HUB = re.compile(r"hub:(?P<path>[^:@]+)(:(?P<config>[^@]+))?(@(?P<split>.+))?")


class ColumnError(UnreadableError):
    """The column that should hold the text is not there."""

    def __init__(self, wanted: str, there: Sequence[str]):
        shown = ", ".join(name[:30] for name in there[:20]) + ", …" * (len(there) > 20)
        super().__init__(f"no column {wanted}; there are {shown}: --text_field names the one that holds the text")


class _Feed:
    """Lines for csv.reader. It remembers what it gave for the record at hand, and takes it back."""

    def __init__(self, source: Iterator[str]):
        self.source = source
        self.waiting: deque[str] = deque()
        self.given: list[str] = []
        self.size = 0

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        if self.size > LONGEST:  # a quote that is never closed
            raise csv.Error
        line = self.waiting.popleft() if self.waiting else next(self.source)
        self.given.append(line)
        self.size += len(line)
        return line + "\n"

    def begin(self) -> None:
        self.given, self.size = [], 0


def records(source: Iterator[str], delimiter: str, quoted: bool, columns: int) -> Iterator[tuple[list[str], str]]:
    """(cells, "") for each record, (the line, what is wrong with it) where one is none: the next line begins anew."""
    feed = _Feed(source)
    while True:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        reader = csv.reader(feed, delimiter=delimiter, quoting=quoting, strict=True)
        fault = ""
        while not fault:
            feed.begin()
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                fault = "broken quotes"
            else:
                if _swallowed(feed.given, delimiter, columns):
                    fault = "broken quotes"
                elif len(row) == columns or (len(row) > columns and not any(row[columns:])):
                    yield row, ""
                elif any(row):
                    fault = "wrong number of columns"
        yield feed.given[:1], fault
        feed.waiting.extendleft(reversed(feed.given[1:]))


def _swallowed(given: list[str], delimiter: str, columns: int) -> bool:
    """A stray quote and another one lines later make one record of many: each line between them looks like a row."""
    return len(given) > 6 and columns > 1 and all(line.count(delimiter) == columns - 1 for line in given[1:-1])


def read_csv(
    stream: io.BufferedReader, tabs: bool, text_field: str, met: dict[str, int], encoding: str = ""
) -> Iterator[Raw]:
    """The first line names the columns; the text lies in one of them."""
    csv.field_size_limit(LONGEST)
    head = stream.peek(HEAD)[:HEAD]
    sample = list(lines(io.BufferedReader(io.BytesIO(head)), encoding))  # type: ignore[arg-type]
    cut = len(head) == HEAD
    source = lines(stream, encoding)
    header = next((line for line in source if line.strip()), "")
    # A single column is told by a character that no text has.
    delimiter = "\t" if tabs and "\t" in header else max("\x1f,\t;|", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    if text_field not in names:
        raise ColumnError(text_field, names)
    # Many a table has sentences with quotation marks and knows no quoting.
    quoting, bare = (
        sum(bool(fault) for _, fault in records(iter(sample[: len(sample) - cut]), delimiter, quoted, len(names)))
        for quoted in (True, False)
    )
    quoted = quoting <= bare + cut  # the last record of the sample may be cut as well
    if not quoted:
        met["without quoting"] = met.get("without quoting", 0) + 1
    text = names.index(text_field)
    kept = [place for place, name in enumerate(names) if name in META and place != text]
    for cells, fault in records(source, delimiter, quoted, len(names)):
        if fault:
            yield Raw(cells[0], fault=fault)
        else:
            yield Raw(cells[text], {names[place]: cells[place] for place in kept if 0 < len(cells[place]) <= NOTE})


def parquet_units(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """(first row group, the one behind the last, bytes), about `size` bytes together."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        yield from _together((file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups)), size)


def arrow_units(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """(first record batch, the one behind the last, bytes)"""
    yield from _together((batch.nbytes for batch in _batches(path)), size)


def _batches(path: Path) -> Iterator["pyarrow.RecordBatch"]:
    """Mapped, so that none is in memory before its values are asked for."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as batches:
        for batch in batches:
            batch.validate()  # its columns lie within the file; what they hold is looked at when it is read
            yield batch
        # A hole of zeros is an end to pyarrow, and so is the end of the file.
        if file.tell() < file.size() or file.read_at(8, file.size() - 8) != ARROW_END:
            raise UnreadableError("damaged or cut off (its end comes too early): download it again")


def _together(sizes: Iterable[int], size: int) -> Iterator[tuple[int, int, int]]:
    first = last = filled = 0
    for last, one in enumerate(sizes, start=1):
        filled += one
        if filled >= size:
            yield first, last, filled
            first, filled = last, 0
    if last > first or not last:
        yield first, last, filled


def read_parquet(path: Path, start: int, end: int, text_field: str) -> Iterator[tuple[int, Raw]]:
    """(number of the row, document) of some row groups."""
    from pyarrow import parquet

    # Otherwise a column of a whole row group is read at once: 244 MiB of one of 360 MB, instead of 6.
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        names = _columns(file.schema_arrow, text_field)
        limit = max(SMALL, RATIO * path.stat().st_size)
        if sum(group.total_byte_size for group in groups) > limit:
            raise UnreadableError(f"a bomb: it grows more than {RATIO}-fold, past {limit >> 20:,} MiB")
        rows = max(1, sum(group.num_rows for group in groups[start:end]))
        step = BATCH * rows // max(1, sum(group.total_byte_size for group in groups[start:end]))
        found = file.iter_batches(min(max(step, 1), 1000), list(range(start, end)), names, use_threads=False)
        yield from _rows(found, sum(group.num_rows for group in groups[:start]), text_field)


def read_arrow(path: Path, start: int, end: int, text_field: str) -> Iterator[tuple[int, Raw]]:
    row = 0
    for number, batch in enumerate(_batches(path)):
        if number == end:
            break
        if number >= start:
            yield from _rows([batch.select(_columns(batch.schema, text_field))], row, text_field)
        row += batch.num_rows


def _columns(schema: "pyarrow.Schema", text_field: str) -> list[str]:
    import pyarrow.types as kinds

    if text_field not in schema.names:
        raise ColumnError(text_field, schema.names)
    kind = schema.field(text_field).type
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    if not any(test(kind) for test in (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_null)):
        raise UnreadableError(f"column {text_field} holds {kind}, not text: --text_field names the one that does")
    return [text_field, *(name for name in schema.names if name in META and name != text_field)]


def _rows(batches: Iterable["pyarrow.RecordBatch"], row: int, text_field: str) -> Iterator[tuple[int, Raw]]:
    for batch in batches:
        step = max(1, BATCH * batch.num_rows // max(1, batch.nbytes))
        for first in range(0, batch.num_rows, step):
            part = batch.slice(first, step)
            columns = {name: _values(column) for name, column in zip(part.schema.names, part.columns, strict=True)}
            for place, text in enumerate(columns.pop(text_field), start=row + first):
                meta = notes({name: values[place - row - first] for name, values in columns.items()}, text_field)
                if text is None:
                    yield place, Raw("", meta, f"no {text_field}")
                elif len(text) > LONGEST:
                    yield place, Raw(text[:NOTE], meta, "text too long")
                else:
                    yield place, Raw(text, meta)
        row += batch.num_rows


def _values(column: "pyarrow.Array") -> list[Any]:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):  # one text for all rows that repeat it
        texts, places = _values(column.dictionary), column.indices.to_pylist()
        if not all(place is None or 0 <= place < len(texts) for place in places):
            raise UnreadableError("damaged: rows with texts that are not there: download it again")
        return [None if place is None else texts[place] for place in places]
    try:
        column.validate(full=True)  # the offsets of a damaged file lead anywhere, and end the process
        return column.to_pylist()
    except pyarrow.ArrowInvalid:  # characters that are not UTF-8, or damage
        raw = _bare(column)
        raw.validate(full=True)
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in raw.to_pylist()]


def _bare(column: "pyarrow.Array") -> "pyarrow.Array":
    """Texts as the bytes that they are."""
    import pyarrow

    for kind in "string", "large_string", "string_view":
        if column.type == getattr(pyarrow, kind)():
            return column.view(getattr(pyarrow, kind.replace("string", "binary"))())
    return column


def shards_of(folder: Path) -> list[Path]:
    """The arrow files that `save_to_disk` left in a folder, in their order."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state.get("_indices_data_files"):
        raise UnreadableError("a data set with a table of indices: load it and save it again with a newer `datasets`")
    return [folder / Path(entry["filename"]).name for entry in state["_data_files"]]


def is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def hub_split(place: str) -> str:
    found = HUB.fullmatch(place)
    if not found:
        raise Mistake(
            f"--sources {place}: a data set of the Hub is hub:OWNER/NAME, hub:OWNER/NAME:CONFIG@SPLIT in full"
        )
    return found["split"] or "train"


def hub(place: str) -> "datasets.IterableDataset":
    """A data set of the Hub, or a folder with one, as a stream: nothing is read yet but what lies where."""
    import datasets

    found = HUB.fullmatch(place)
    assert found
    with _reached(place, found["path"]):
        return datasets.load_dataset(found["path"], found["config"], split=hub_split(place), streaming=True)


@contextlib.contextmanager
def _reached(place: str, path: str) -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        raise Mistake(
            f"--sources {place}: the Hub cannot be reached ({_said(error)}); where there is a network, run "
            f"`hf download --repo-type dataset {path} --local-dir {Path(path).name}`, and name that folder: "
            f"--sources hub:{Path(path).name}"
        ) from None
    except Exception as error:  # the Hub's library, its HTTP client and fsspec each bring errors of their own
        raise Mistake(f"--sources {place}: {_said(error)}") from None


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]


def hub_files(place: str) -> list[str]:
    """The files of the split. On the Hub their addresses hold the revision."""
    import datasets

    found = HUB.fullmatch(place)
    assert found
    with _reached(place, found["path"]):
        files = datasets.load_dataset_builder(found["path"], found["config"]).config.data_files or {}
    return [str(file) for file in files.get(hub_split(place), [])]


def read_hub(place: str, shard: int, text_field: str) -> Iterator[tuple[int, Raw]]:
    stream = hub(place)
    row = 0
    try:
        for table in stream.shard(stream.num_shards, shard).with_format("arrow").iter(batch_size=100):
            table = table.select(_columns(table.schema, text_field))
            for batch in table.to_batches():
                yield from _rows([batch], row, text_field)
                row += batch.num_rows
    except UnreadableError:
        raise
    except Exception as error:
        raise Mistake(
            f"--sources {place}: its shard {shard} ended early ({_said(error)}): the same command goes on"
        ) from None
