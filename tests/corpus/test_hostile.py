"""Everything that is wrong with downloads, through the whole command: one clear line each, and all else is processed."""

import gzip
import io
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import time
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard
from breaking import tale
from reading import books, write_zip

from corpus import collect
from narae.artifact import Artifact, find, open_artifact
from narae.documents import read_documents, shards
from narae.log import Mistake
from tests.helpers import HOME, call

pytestmark = pytest.mark.usefixtures("artifacts")
WORDS = ("--quality", "sample", "--workers", "1", "--max_unreadable", "1")
GONE = "it is gone: something removed it after the sources were listed"


def texts(corpus: Artifact) -> dict[str, str]:
    return {
        document.id: document.text
        for split in ("train", "val")
        for document in read_documents(shards(corpus.path, split))
    }


def rejected(corpus: Artifact) -> dict[str, str]:
    return {
        document.id: document.meta["rejected"] for document in read_documents([corpus.path / "rejected.jsonl.zst"])
    }


def unreadable(corpus: Artifact) -> dict[str, str]:
    found = {
        f"{entry['archive']}{':' * bool(entry['member'])}{entry['member']}": entry["cause"]
        for entry in corpus.counts["unreadable"]
    }
    assert len(found) == len(corpus.counts["unreadable"])
    return found


def raw_zip(path: Path, *members: tuple[str, int, int, bytes, int]) -> Path:
    """(name, method, CRC-32, size, packed bytes, how often they are repeated): a zip that need not be packed again."""
    directory = b""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for name, method, crc, size, packed, times in members:
            label, at = name.encode(), file.tell()
            about = struct.pack("<HHHIIIH", 0x800, method, 0, crc << 0, len(packed) * times, size, len(label))
            about = struct.pack("<HHHHIIIH", 0x800, method, 0, 33, crc, len(packed) * times, size, len(label))
            file.write(b"PK\3\4\x14\0" + about + b"\0\0" + label)
            for _ in range(times):
                file.write(packed)
            directory += b"PK\1\2\x14\0\x14\0" + about + struct.pack("<HHHHII", 0, 0, 0, 0, 0, at) + label
        at = file.tell()
        file.write(directory)
        file.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), at, 0))
    return path
