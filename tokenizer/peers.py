"""Other people's tokenizers, from the files that they are published as, each as a `tokenizers.Tokenizer`.

tiktoken's rank files hold no merges and SentencePiece's models scores instead. Both merge the pair of neighbours whose
joined entry is best; so every way to cut an entry into two others is a merge, ranked as the entry is. With that the ids
are those of tiktoken and SentencePiece, and no package of theirs is needed.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

from narae.artifact import open_artifact
from narae.log import Mistake, say
from tokenizer.train import BYTES, PATTERNS
from tokenizer.wire import sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LARGEST = 500_000_000  # bytes of a peer's file, decompressed
UNDERSTOOD = (
    ".tiktoken ranks, tekken's and tokenizer.json, SentencePiece's .model, WordPiece's vocab.txt (each plain or .zst), "
    "and folders with a tokenizer.json"
)
# Whose ranks follow which split pattern, by the first letters of the file's name. cl100k cuts as llama3 does.
FAMILIES = {"r50k": "gpt2", "p50k": "gpt2", "gpt2": "gpt2", "cl100k": "llama3", "llama3": "llama3"}
FAMILIES |= {"o200k": "o200k", "llama4": "o200k", "qwen": "qwen2"}
ENDS = re.compile(r"[._-]?(tokenizer\.json|vocab\.txt)$|\.(tiktoken|json|model|txt)$")
SPACE = "▁"  # a space, in SentencePiece's entries
MECAB_SPACE = "▃"  # an entry of SentencePiece models that read MeCab's morphemes: where a space was
OF_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
BYTE_OF = {letter: byte for byte, letter in enumerate(BYTES)}


@dataclass
class Peer:
    name: str
    tokenizer: "Tokenizer"
    note: str = ""  # what a reader has to know to compare it

    def __post_init__(self) -> None:
        self.tokenizer.encode_special_tokens = True  # <|endoftext|> in a text is text
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    @cached_property
    def entries(self) -> int:
        return self.tokenizer.get_vocab_size()

    @cached_property
    def special(self) -> set[int]:
        return set(self.tokenizer.get_added_tokens_decoder())

    @cached_property
    def unknown(self) -> int | None:
        model = json.loads(self.tokenizer.model.__getstate__())
        word = model.get("unk_token")
        return self.tokenizer.token_to_id(word) if word is not None else model.get("unk_id")

    @cached_property
    def decoder(self) -> str:
        """The steps that make text of entries, as JSON: they tell how entries spell it."""
        decoder = self.tokenizer.decoder
        return decoder.__getstate__().decode() if decoder is not None else ""

    def spelling(self, number: int) -> bytes:
        """What an entry writes. Where the vocabulary drops spaces it is the entry's name, ## included."""
        name = self.tokenizer.id_to_token(number) or ""
        if number in self.special:
            return name.encode()
        if "ByteLevel" in self.decoder and all(letter in BYTE_OF for letter in name):
            return bytes(BYTE_OF[letter] for letter in name)
        if "ByteFallback" in self.decoder and (byte := OF_BYTE_FALLBACK.fullmatch(name)):
            return bytes.fromhex(byte[1])
        if SPACE in self.decoder:
            name = name.replace(SPACE, " ")
        return name.encode("utf-8", "replace")


def load(names: Iterable[str]) -> Iterator[Peer]:
    """Files, folders of files, and tokenizers of ours by name, in that order; no two of them have the same name."""
    taken: dict[str, int] = {}
    for name in names:
        for peer in _load(name):
            taken[peer.name] = taken.get(peer.name, 0) + 1
            if taken[peer.name] > 1:
                peer.name += f" ({taken[peer.name]})"
            yield peer


def _load(name: str) -> Iterator[Peer]:
    path = Path(name).expanduser()
    if not path.exists():
        if "/" in name or "." in name:
            raise Mistake(f"--peers {name}: there is no such file or folder")
        yield open_own(name)
    elif path.is_file():
        yield read(path)
    elif (path / "tokenizer.json").is_file():
        yield Peer(path.resolve().name, _guarded(path / "tokenizer.json"))
    else:
        inside = sorted(path.iterdir())
        files = [file for file in inside if file.is_file() and ENDS.search(file.name.removesuffix(".zst"))]
        folders = [folder for folder in inside if (folder / "tokenizer.json").is_file()]
        if not files and not folders:
            raise Mistake(f"--peers {name} holds no tokenizer; understood are {UNDERSTOOD}")
        others = [file.name for file in inside if file not in files and file not in folders]
        if others:
            say(f"in {name} left out, being no tokenizer by name: {', '.join(others)}")
        for file in files:
            yield read(file)
        for folder in folders:
            yield Peer(folder.name, _guarded(folder / "tokenizer.json"))


def open_own(name: str) -> Peer:
    """A tokenizer of ours, by name or by its folder."""
    return Peer(Path(name).name, _guarded(open_artifact("tokenizer", name).path / "tokenizer.json"))


def read(file: Path) -> Peer:
    """One file. Its name decides how it is read, what it holds whether that was right."""
    plain = file.name.removesuffix(".zst")
    tokenizer = _guarded(file)
    note = ""
    if plain.endswith(".model") and tokenizer.token_to_id(MECAB_SPACE) is not None:
        note = "made for MeCab morphemes, measured here on plain text"
    return Peer(ENDS.sub("", plain) or plain, tokenizer, note)


def _guarded(file: Path) -> "Tokenizer":
    """The file is anybody's: whatever is wrong with it is one sentence."""
    plain = file.name.removesuffix(".zst")
    try:
        data = _content(file)
        if plain.endswith(".json"):
            return _json(data)
        if plain.endswith(".tiktoken"):
            return from_ranks(_ranks(data), _pattern(file, plain))
        if plain.endswith(".model"):
            return _sentencepiece(sentencepiece(data))
        if plain.endswith(".txt"):
            return _wordpiece(data)
        cause = "its name has none of the endings"
    except Exception as error:  # tokenizers raises nothing more special
        cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    raise Mistake(f"{file} is not a tokenizer that can be read ({cause}); understood are {UNDERSTOOD}")


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        packed = file.name.endswith(".zst")
        source: Any = zstandard.ZstdDecompressor().stream_reader(opened) if packed else opened
        data: bytes = source.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST:,} bytes")
    if not data:
        raise ValueError("it is empty")
    return data


def _json(data: bytes) -> "Tokenizer":
    from tokenizers import Tokenizer

    content = json.loads(data)
    if not isinstance(content, dict) or not {"model", "vocab"} & content.keys():
        raise ValueError("JSON with neither a model nor a vocab")
    if "model" in content:
        return Tokenizer.from_str(data.decode())
    config = content["config"]
    used = config["default_vocab_size"] - config["default_num_special_tokens"]  # the file holds some more
    ranks = {base64.b64decode(entry["token_bytes"]): int(entry["rank"]) for entry in content["vocab"][:used]}
    return from_ranks(ranks, config["pattern"])


def _pattern(file: Path, plain: str) -> str:
    for family, pattern in FAMILIES.items():
        if plain.startswith(family):
            return PATTERNS[pattern]
    raise Mistake(f"{file} holds ranks but no split pattern: let its name begin with {', '.join(FAMILIES)}")


def _ranks(data: bytes) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if line:
            try:
                word, rank = line.split()
                ranks[base64.b64decode(word, validate=True)] = int(rank)
            except (ValueError, binascii.Error):
                raise ValueError(f"line {number} is not an entry in base64 and its rank") from None
    return ranks


def from_ranks(ranks: dict[bytes, int], pattern: str) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"{len(missing)} of the 256 bytes have no rank, the first of them {missing[0]}")
    vocabulary = {"".join(BYTES[byte] for byte in word): rank for word, rank in ranks.items()}
    # ignore_merges: tiktoken takes a piece that is an entry as it is, whether merges lead there or not.
    tokenizer = Tokenizer(models.BPE(vocabulary, merges(vocabulary), ignore_merges=True))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def merges(ranks: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make an entry of two others, best entries first."""
    found = []
    for word in sorted(ranks, key=ranks.__getitem__):
        for cut in range(1, len(word)):
            if word[:cut] in ranks and word[cut:] in ranks:
                found.append((word[:cut], word[cut:]))
    return found


def _sentencepiece(model: dict[str, Any]) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces, kinds, unknown = model["pieces"], model["kinds"], model["unknown"]
    vocabulary = {word: number for number, (word, _) in enumerate(pieces)}
    engine: Any
    if model["unigram"]:
        engine = models.Unigram(pieces, unknown, model["byte_fallback"])
    else:
        # The best score first; a merge makes ordinary entries only.
        ranks = {word: -score for (word, score), kind in zip(pieces, kinds, strict=True) if kind == 1}
        engine = models.BPE(
            vocabulary,
            merges(ranks),
            unk_token=pieces[unknown][0],
            fuse_unk=True,
            byte_fallback=model["byte_fallback"],
        )
    tokenizer = Tokenizer(engine)
    steps: list[Any] = [normalizers.Precompiled(model["charsmap"])] if model["charsmap"] else []
    if model["strip"]:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    prefix = "always" if model["prefix"] else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
    strip = [decoders.Strip(" ", 1, 0)] if model["prefix"] else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _wordpiece(data: bytes) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = data.decode().splitlines()
    vocabulary = {word: number for number, word in enumerate(words)}
    if "[UNK]" not in vocabulary or not any(word.startswith("##") for word in words):
        raise ValueError("no WordPiece vocabulary: it has no [UNK] or no ## entries")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    # A vocabulary with capitals was made without lowering them.
    lower = not any(re.match("(##)?[A-Z]", word) for word in words)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def tutorial(texts: Iterable[str], entries: int) -> Peer:
    """The recipe of the tutorials: whitespace and punctuation split, BPE with ## before what continues a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Peer("tutorial", tokenizer, "trained here on the same corpus")
