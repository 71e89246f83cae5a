"""A saved tokenizer applied to text in bulk.

gigatoken encodes some ten times as fast as `tokenizers`, where it knows the tokenizer's kind and split pattern. The ids
must be the saved tokenizer's own: `check` compares a sample. What gigatoken does not know is left to `tokenizers`.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from narae.log import say

SAMPLE, EXCERPT = 2_000, 200  # characters that are compared, in all and of one text
# gigatoken 0.10 keeps what it has seen of words, 2 bytes per byte of short varied texts, without a bound. Past so many
# bytes it is loaded anew, in 0.15 s.
MEMORY = 120_000_000


class Encoder:
    """`engine` names the library that encodes; a text that spells a special token out is text, all of it."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self.file = folder / "tokenizer.json"
        self.exact = Tokenizer.from_file(str(self.file))
        self.exact.encode_special_tokens = True
        self.exact.no_truncation()
        self.exact.no_padding()
        described = json.loads(self.file.read_text(encoding="utf-8"))
        vocabulary = self.exact.get_vocab()
        self.entries = max(vocabulary.values()) + 1
        self.eos, self.pad = vocabulary["<|endoftext|>"], vocabulary["<|pad|>"]
        self.entry_bytes, self.front_bytes = token_bytes(self.exact, described)
        self.reason = _own_words(described)  # why gigatoken does not encode
        self.engine = "tokenizers"
        # Special tokens are not handed on: gigatoken would find them in the text.
        self._described = json.dumps(described | {"added_tokens": []}, ensure_ascii=False)
        self._fast: Any = None
        self._base = 0
        if not self.reason:
            try:
                self._load()
                self.engine = "gigatoken"
            except (ImportError, ValueError, RuntimeError, OSError) as error:
                self.reason = str(error).strip().partition("\n")[0] or type(error).__name__

    def tell(self) -> None:
        if self.reason:
            say(f"`tokenizers` encodes, a tenth as fast as gigatoken, which cannot take this tokenizer: {self.reason}")

    def encode(self, texts: Any, exactly: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The ids of some texts, one after another, and how many each has. Texts: a list, or an arrow array of them."""
        if not len(texts):
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        if exactly or self.engine == "tokenizers":
            return self._exactly(_strings(texts))
        import awkward as ak

        if _resident() > self._base + MEMORY:
            self._load()
        # Without its threads: after a fork they are gone, and the call would wait for them for ever.
        found = self._fast.encode_batch(texts if isinstance(texts, list) else _view(texts), parallel=False)
        if not isinstance(found, ak.Array):
            raise TypeError(f"gigatoken returned {type(found).__name__}, not an awkward array")
        offsets = np.asarray(found.layout.offsets.data).astype(np.int64, copy=False)
        return np.asarray(found.layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)

    def check(self, texts: Any) -> bool:
        """True where a sample, evenly spaced, has the ids that the saved tokenizer gives it."""
        if self.engine == "tokenizers" or not len(texts):
            return True
        step = max(1, len(texts) // (SAMPLE // 100))
        sample, room = [], SAMPLE
        for number in range(0, len(texts), step):
            text = _strings(texts[number : number + 1])[0][:EXCERPT]
            sample.append(text)
            room -= len(text)
            if room <= 0:
                break
        # One by one: for so few, neither threads nor awkward arrays are worth waking.
        exact = (self.exact.encode(text, add_special_tokens=False).ids for text in sample)
        return all(self._fast.encode(text).tolist() == ids for text, ids in zip(sample, exact, strict=True))

    def bytes_of(self, ids: np.ndarray, texts: int) -> int:
        """Of so many texts that have these ids, in NFC."""
        return int(self.entry_bytes.take(ids, mode="clip").sum(dtype=np.int64)) - self.front_bytes * texts

    def sizes(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The same of each text, by the number of its ids."""
        ends = np.cumsum(np.append(0, lengths))
        before = np.cumsum(np.append(0, self.entry_bytes.take(ids, mode="clip")), dtype=np.int64)
        return np.diff(before[ends]) - self.front_bytes

    def _load(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        self._fast = None  # its memory first, back to the system: else each encoder begins above the one before
        with contextlib.suppress(AttributeError, OSError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)
        self._fast = load_hf_json(self._described)
        self._base = _resident()

    def _exactly(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if multiprocessing.parent_process() is not None:  # a worker has one core, and a fork has no threads
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        found = [np.array(one.ids, np.uint32) for one in self.exact.encode_batch_fast(texts, add_special_tokens=False)]
        return np.concatenate(found), np.array([len(one) for one in found], np.int64)


def _own_words(described: dict[str, Any]) -> str:
    added = [token["content"] for token in described.get("added_tokens", []) if not token["special"]]
    return f"entries that are looked for in the text before all else, as {added[0]!r}" if added else ""


def token_bytes(tokenizer: Any, described: dict[str, Any]) -> tuple[np.ndarray, int]:
    """The bytes of text that each id stands for; and of what is put in front of every text, SentencePiece's blank.

    No document has those. `described` is what tokenizer.json says.
    """
    vocabulary = tokenizer.get_vocab()
    sizes = _entry_bytes(vocabulary, described, max(vocabulary.values()) + 1)
    front = tokenizer.encode("a", add_special_tokens=False).ids
    return sizes, int(sizes[front].sum()) - 1


def _entry_bytes(vocabulary: dict[str, int], described: dict[str, Any], entries: int) -> np.ndarray:
    """The bytes of text that each id stands for, in NFC; none for special tokens."""
    model = described["model"]
    added = {token["id"]: token for token in described.get("added_tokens", [])}
    sizes = np.zeros(entries, np.uint16)
    for entry, number in vocabulary.items():
        if number in added:
            sizes[number] = 0 if added[number]["special"] else len(entry.encode())
        elif not model.get("byte_fallback"):
            sizes[number] = len(entry)  # of a byte-level vocabulary: a character stands for a byte
        elif len(entry) == 6 and entry.startswith("<0x"):
            sizes[number] = 1
        else:
            sizes[number] = len(entry.replace("▁", " ").encode())
    return sizes


def _strings(texts: Any) -> list[str]:
    return texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)


def _view(texts: Any) -> Any:
    """An arrow array of large strings as an awkward one: the same bytes, in the same place."""
    import awkward as ak

    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.frombuffer(data, np.uint8) if data and data.size else np.empty(0, np.uint8)
    content = ak.contents.NumpyArray(letters, parameters={"__array__": "char"})
    words = ak.contents.ListOffsetArray(ak.index.Index64(places), content, parameters={"__array__": "string"})
    return ak.Array(words)


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss
