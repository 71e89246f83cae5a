"""Tokenizers of a few entries, of which a person can tell the tokens."""

import base64
import json
from pathlib import Path

from tokenizers import normalizers

from narae import artifact
from tokenizer.peers import from_ranks
from tokenizer.train import PATTERNS, save

# Numbered from 256 on. The last one is a space and two of the three bytes of 나, as of many other syllables.
WORDS: list[str | bytes] = ["나", "래", "나래", " 나래", "ab", "abc", " 나".encode()[:3]]


def ranks(words: list[str | bytes]) -> dict[bytes, int]:
    spelt = [word if isinstance(word, bytes) else word.encode() for word in words]
    return {word: rank for rank, word in enumerate([*(bytes([byte]) for byte in range(256)), *spelt])}


def tiktoken_lines(words: list[str | bytes]) -> bytes:
    return b"".join(base64.b64encode(word) + b" %d\n" % rank for word, rank in ranks(words).items())


def tekken(words: list[str | bytes], special: int = 3) -> bytes:
    entries = [{"rank": rank, "token_bytes": base64.b64encode(word).decode()} for word, rank in ranks(words).items()]
    beyond = {"rank": len(entries), "token_bytes": base64.b64encode(b"zz").decode()}
    config = {
        "pattern": PATTERNS["o200k"],
        "default_vocab_size": len(entries) + special,
        "default_num_special_tokens": special,
    }
    return json.dumps({"config": config, "vocab": [*entries, beyond]}).encode()


def saved(name: str = "tiny", words: list[str | bytes] | None = None, sources: list[str] | None = None) -> Path:
    """A published tokenizer of ours."""
    draft = artifact.begin("tokenizer", name, {"words": repr(words), "sources": sources}, overwrite=True)
    if draft is None:
        return artifact.place("tokenizer", name)
    with draft:
        tokenizer = from_ranks(ranks(WORDS if words is None else words), PATTERNS["llama3"])
        tokenizer.normalizer = normalizers.NFC()
        save(tokenizer, draft.path, 512)
        if sources is not None:
            draft.counts["sources"] = {source: {"documents": 1, "bytes": 1} for source in sources}
    return draft.target
