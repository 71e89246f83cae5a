"""python corpus/sample.py [--megabytes 20] [--seed 1] [--name sample]

Writes the sample: a small world told in Korean of our own, packed as AIHub packs data set 653, faults included,
with chat examples, two exams and a list of everything that was planted. The same seed and size give the same bytes.
"""

import contextlib
import hashlib
import json
import random
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from corpus import chat, damage, tales
from corpus.world import World
from narae import artifact
from narae.config import option, parse, resolved
from narae.log import Progress, say

DATA = "029.대규모 구매도서 기반 한국어 말뭉치 데이터/01.데이터"
SPLITS = {"1.Training": "T", "2.Validation": "V"}
SIDES = {"원천데이터": "S", "라벨링데이터": "L"}
# Archives of the training side that carry a fault of the real ones.
CP949_SHELF, PART_SHELF, EMPTY_SHELF, BROKEN_SHELF = "380", "690", "100", "300"
YEARS, JOBS = range(1985, 2021), ("작가", "기자", "교수", "시인", "번역가", "연구원")


@dataclass
class SampleConfig:
    name: str = option("sample", "what the artifact is called")
    overwrite: bool = option(False, "replace what is there under this name")
    megabytes: float = option(20.0, "document text to write, in 10^6 bytes of UTF-8")
    seed: int = option(1, "another seed is another world")
    chat_examples: int = option(6000, "lines in chat.jsonl")
    member_megabytes: float = option(1.0, "how large a member of an archive grows")


class Cp949Name(zipfile.ZipInfo):
    """A member name in cp949 with no flag that would say so, as Korean Windows tools write it."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - zipfile calls it so
        return self.filename.encode("cp949"), self.flag_bits & ~0x800


class Archive:
    """One zip, written front to back; a member is closed when it is large enough."""

    def __init__(self, root: Path, split: str, side: str, shelf: str, limit: int):
        name = f"{DATA}/{split}/{side}/{SPLITS[split]}{SIDES[side]}_{shelf}.zip"
        training = split == "1.Training" and side == "원천데이터"
        self.path = name + (".part0" if training and shelf == PART_SHELF else "")
        self.cp949 = training and shelf == CP949_SHELF
        self.root, self.side, self.shelf, self.limit = root, side, shelf, limit
        (root / self.path).parent.mkdir(parents=True, exist_ok=True)
        self.zip = zipfile.ZipFile(root / self.path, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        self.member, self.size = "", 0
        self.file: IO[bytes] | None = None
        self.members = self.documents = self.sentences = 0

    def add(self, number: str, sentences: list[str], rng: random.Random) -> str:
        """Writes one document, and says into which member."""
        year, born, job = rng.choice(YEARS), rng.randrange(1930, 1985), rng.choice(JOBS)
        if self.side == "원천데이터":
            rows = [
                f"653.{number}.{place}\t{sentence}\t{self.shelf}\t{year}\t{born}\t{job}\n"
                for place, sentence in enumerate(sentences)
            ]
            content = "".join(rows).encode()
        else:
            info = {"kdc": self.shelf, "published_year": str(year), "author": {"birth_year": str(born), "jobs": [job]}}
            texts = [{"text": sentence, "original_text": sentence} for sentence in sentences]
            content = json.dumps({"id": number, "info": info, "sentences": texts}, ensure_ascii=False).encode()
        if self.file is None:
            self._open()
        elif self.side == "라벨링데이터":
            content = b",\n" + content
        assert self.file
        self.file.write(content)
        self.size += len(content)
        self.documents += 1
        self.sentences += len(sentences)
        member = self.member
        if self.size >= self.limit:
            self._finish()
        return member

    def put(self, name: str, content: bytes) -> str:
        self._finish()
        self.zip.writestr(_info(name), content)
        return name

    def close(self) -> None:
        self._finish()
        if self.side == "라벨링데이터":
            counts = {"paragraphs": self.documents, "sentences": self.sentences}
            info = {"id": self.shelf, "info": {"kdc": self.shelf}, "statistics": counts}
            self.put(f"{self.shelf}_INFO.json", json.dumps(info).encode())
        self.zip.close()

    def _open(self) -> None:
        self.members += 1
        if self.side == "라벨링데이터":
            self.member = f"{self.shelf}_TEXT_{self.members:03d}.json"
        else:
            self.member = f"{self.shelf}_{'자료' if self.cp949 else 'DATA'}_{self.members:03d}.tsv"
        self.file, self.size = self.zip.open(_info(self.member, self.cp949), "w"), 0
        if self.side == "라벨링데이터":
            self.file.write(b'{"paragraphs": [\n')

    def _finish(self) -> None:
        if self.file:
            if self.side == "라벨링데이터":
                self.file.write(b"\n]}\n")
            self.file.close()
            self.file = None


def _info(name: str, cp949: bool = False) -> zipfile.ZipInfo:
    info = (Cp949Name if cp949 else zipfile.ZipInfo)(name)  # dated 1980, whenever it is written
    info.compress_type = zipfile.ZIP_DEFLATED
    info._compresslevel = 6  # type: ignore[attr-defined]
    return info


class Planted:
    """planted.json, written line by line: it grows with the corpus, memory does not."""

    def __init__(self, path: Path):
        self.counts: dict[str, int] = {}
        self.file = path.open("w", encoding="utf-8")
        self.file.write('{"join": "space",\n "planted": [')

    def add(self, kind: str, archive: Archive, member: str, **details: Any) -> None:
        self.file.write(",\n" if self.counts else "\n")
        entry = {"kind": kind, "archive": archive.path, "member": member, **details}
        self.file.write(json.dumps(entry, ensure_ascii=False))
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def close(self, **counts: int) -> None:
        self.file.write(f'\n],\n "counts": {json.dumps(self.counts | counts, sort_keys=True)}}}\n')
        self.file.close()


def digest(sentences: list[str]) -> str:
    return hashlib.sha256(" ".join(sentences).encode()).hexdigest()


def write_archives(root: Path, world: World, megabytes: float, limit: int, planted: Planted) -> dict[str, int]:
    archives: dict[tuple[str, str, str], Archive] = {}

    def archive(split: str, side: str, shelf: str) -> Archive:
        key = split, side, shelf
        if key not in archives:
            archives[key] = Archive(root, split, side, shelf, limit)
        return archives[key]

    def put(number: str, shelf: str, sentences: list[str], rng: random.Random) -> tuple[Archive, str]:
        split = "2.Validation" if rng.random() < 0.02 else "1.Training"
        side = "원천데이터" if rng.random() < 0.5 else "라벨링데이터"
        place = archive(split, side, shelf)
        return place, place.add(number, sentences, rng)

    bar, number, written = Progress("sample", megabytes, "MB"), 0, 0
    while written < megabytes * 1e6:
        document = tales.document(world, number)
        rng = random.Random(world.seed * 7_000_003 + number)
        name, sentences, draw = f"{number:08d}", document.sentences, rng.random()
        if draw < 0.01:
            kind, piece, sentences = damage.personal(document, rng)
            place, member = put(name, document.shelf, sentences, rng)
            planted.add("personal", place, member, id=name, what=kind, piece=piece, hash=digest(sentences))
        elif draw < 0.015:
            sentences = [unicodedata.normalize("NFD", sentence) for sentence in sentences]
            place, member = put(name, document.shelf, sentences, rng)
            planted.add("nfd", place, member, id=name, hash=digest(sentences))
        else:
            place, member = put(name, document.shelf, sentences, rng)
        written += len(document.text.encode())
        copy = f"{number + 50_000_000:08d}"
        if 0.02 <= draw < 0.04:
            place, member = put(copy, document.shelf, sentences, rng)
            planted.add("exact_duplicate", place, member, id=copy, of=name, hash=digest(sentences))
        elif 0.04 <= draw < 0.06 and (changed := damage.near(document, rng)):
            place, member = put(copy, document.shelf, changed, rng)
            planted.add("near_duplicate", place, member, id=copy, of=name, hash=digest(changed))
        elif 0.06 <= draw < 0.08:
            kind, sentences = damage.junk(rng)
            place, member = put(copy, document.shelf, sentences, rng)
            planted.add("junk", place, member, id=copy, what=kind, hash=digest(sentences))
        number += 1
        bar.update(written / 1e6)
    bar.close()
    faulty = archive("1.Training", "라벨링데이터", EMPTY_SHELF)
    planted.add("empty_member", faulty, faulty.put(f"{EMPTY_SHELF}_TEXT_000.json", b""))
    faulty = archive("1.Training", "라벨링데이터", BROKEN_SHELF)
    broken = '{"paragraphs": [{"id": "90000000", "sentences": [{"text": "이 문장은 끝나지'.encode()
    planted.add("broken_json", faulty, faulty.put(f"{BROKEN_SHELF}_TEXT_000.json", broken))
    faulty = archive("1.Training", "원천데이터", CP949_SHELF)
    planted.add("cp949_name", faulty, f"{CP949_SHELF}_자료_001.tsv")
    planted.add("part_is_zip", archive("1.Training", "원천데이터", PART_SHELF), "")
    for key in sorted(archives):
        archives[key].close()
    return {"documents": number, "bytes": written, "archives": len(archives)}


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def facts(world: World) -> Iterator[dict[str, Any]]:
    for fact in world.facts:
        yield dict(vars(fact))


def write(root: Path, config: SampleConfig) -> dict[str, int]:
    world = World(config.seed)
    planted = Planted(root / "planted.json")
    with contextlib.closing(planted):
        counts = write_archives(root, world, config.megabytes, int(config.member_megabytes * 1e6), planted)
    counts["chat"] = write_lines(root / "chat.jsonl", chat.examples(world, config.chat_examples, config.seed))
    for kind in ("wording", "unasked"):
        counts[kind] = write_lines(root / f"questions_{kind}.jsonl", chat.exam(world, kind, config.seed))
    counts["facts"] = write_lines(root / "facts.jsonl", facts(world))
    return counts


def main() -> None:
    config = parse(SampleConfig, config="configs/sample/sample.yaml", about=__doc__)
    draft = artifact.begin("sample", config.name, resolved(config), overwrite=config.overwrite)
    if draft is None:
        return
    with draft:
        draft.counts |= write(draft.path, config)
    counts = draft.counts
    say(f"{counts['documents']:,} documents in {counts['archives']} archives, {counts['chat']:,} chat examples")
    say(f"published in {draft.target}")


if __name__ == "__main__":
    main()
