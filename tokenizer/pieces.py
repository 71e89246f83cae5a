"""The second engine: SentencePiece's BPE over characters, with bytes for the rare ones, as a tokenizers.Tokenizer.

SentencePiece finds the pieces; what is saved needs neither it nor code of ours. Spaces stay spaces: it writes them as
U+2581, so that this character in a text would come back as a space. Here it is a rare character like others.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from narae.log import Mistake

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

# No piece has a space after another character, so cutting before spaces changes no id: a document of 1 MB is encoded
# word by word, and the words' counts are all that training needs.
WORD = r" +[^ ]*|[^ ]+"
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# SentencePiece's own marks: a boundary, an end, a space, an unknown character. Its trainer skips what contains them.
RESERVED = "\t\0" + SPACE + "\N{LOWER FIVE EIGHTHS BLOCK}"
Words = Iterable[tuple[str, int]]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LONGEST = 1_000  # characters of a word in training: some versions keep places in 16 bits. No piece has more than 16
COVERED = 0.9995  # of the text is in characters that are entries. Bytes per token, as below: .999 6.10, 1.0 6.07

# Bytes per token on held-out Korean, trained on 27 MB, 32,768 entries: SentencePiece's defaults 5.92; pieces that may
# hold letters, digits and punctuation together 6.12; runs of spaces as pieces 6.12, and with manuals and code 5.66
# instead of 5.48; every digit for itself 5.98. Pieces of at most 8, 16, 32 or 64 characters: 6.12 each.
OPTIONS: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "character_coverage": 1.0,  # rare characters are taken out before: its own choice may exceed the vocabulary
    "split_by_unicode_script": False,
    "allow_whitespace_only_pieces": True,
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity",
    "hard_vocab_limit": False,
    "max_sentence_length": 1 << 30,
    "num_threads": 1,  # the merges have one thread anyway
    "minloglevel": 2,
}


def train_pieces(words: Words, vocab_size: int, special: Sequence[str]) -> "Tokenizer":
    """A tokenizer for texts of these words: what WORD finds in them, in NFC, and how often. They are read twice.

    Special tokens come first, then the bytes, then the pieces. Where the words yield no more, it has fewer entries than
    `vocab_size`. The order of the words changes nothing.
    """
    first = len(special) + len(BYTES)
    kept = characters(words, (vocab_size - first) // 2)
    if not kept:
        return convert([*special, *BYTES], special)
    found = learn(words, kept, vocab_size, special)
    entries = [found.id_to_piece(number) for number in range(found.get_piece_size())]
    return convert([*entries[:first], *(entry.replace(SPACE, " ") for entry in entries[first:])], special)


def characters(words: Words, room: int) -> set[str]:
    """Those that make up most of the text, and at most half of the vocabulary."""
    counts: Counter[str] = Counter()
    for word, count in words:
        for character in word:
            counts[character] += count
    if counts.total() >= 2**63:
        raise Mistake(f"SentencePiece counts to 2^63, not to {counts.total():,} characters: lower the weights")
    wanted, kept = COVERED * counts.total(), set()
    for character in RESERVED:
        counts.pop(character, None)
    covered = 0
    for character, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:room]:
        if covered >= wanted:
            break
        covered += count
        kept.add(character)
    return kept


def learn(words: Words, kept: set[str], vocab_size: int, special: Sequence[str]) -> "SentencePieceProcessor":
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=_lines(words, kept),
        input_format="tsv",
        model_writer=model,
        vocab_size=vocab_size,
        unk_id=0,  # it must have one, for which bytes leave no use
        unk_piece=special[0],
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        control_symbols=list(special[1:]),
        **OPTIONS,
    )
    return SentencePieceProcessor(model_proto=model.getvalue())


def _lines(words: Words, kept: set[str]) -> Iterator[str]:
    """Words with their counts, cut where a character is rare: no piece has one."""
    rare = re.compile(f"[^{re.escape(''.join(sorted(kept)))}]+")
    for word, count in words:
        for part in rare.split(word):
            for begin in range(0, len(part), LONGEST):
                yield f"{part[begin : begin + LONGEST]}\t{count}"


def convert(entries: Sequence[str], special: Sequence[str]) -> "Tokenizer":
    """The tokenizer whose ids are the places in `entries`: special tokens, bytes, and pieces as they were merged.

    SentencePiece joins whatever makes the earliest piece; merges name their halves. So every way to halve a piece into
    two others is a merge, in the order of the pieces.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = entries[len(special) + len(BYTES) :]
    known = set(pieces)
    halves = [(piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece))]
    merges = [(left, right) for left, right in halves if left in known and right in known]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(special))
    return tokenizer
