"""Text as it is generated, by whole syllables."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import torch

# What the next token may still change: a character of which bytes are missing, and a syllable of single jamo. Those
# compose in NFC where they can, so that a model writes them for Middle Korean, which has no other form.
LEAD, VOWEL, TAIL = "[\u1100-\u115f\ua960-\ua97c]", "[\u1160-\u11a7\ud7b0-\ud7c6]", "[\u11a8-\u11ff\ud7cb-\ud7fb]"
UNDECIDED = re.compile(f"{LEAD}?{VOWEL}?{TAIL}?\N{REPLACEMENT CHARACTER}?\\Z")
BYTE = re.compile("<0x[0-9A-F]{2}>")
NEAR = 16  # tokens: three jamo are nine bytes, so what is undecided and a whole character before it lie within


class Syllables:
    """A streamer: text goes out as soon as it is whole, and all of it is what the tokens decode to at once.

    A syllable may be split over several tokens. Only the last few are decoded again at each step.
    """

    def __init__(self, tokenizer: Any, emit: Callable[[str], None], strip: bool = False):
        self.tokenizer, self.emit, self.strip = tokenizer, emit, strip
        self.special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.near: list[int] = []
        self.done = 0  # characters of what `near` decodes to that are out
        self.text = ""
        self.prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self.prompt:  # generate() puts the prompt first
            self.prompt = False
            return
        given = [token for token in value.flatten().tolist() if token not in self.special]
        names = [name for name in self.tokenizer.convert_ids_to_tokens(given) if name is not None]
        self.near += given
        # SentencePiece's bytes in a row are characters, or all of them are none: so a row is decoded when it has ended
        if not names or BYTE.fullmatch(names[-1]):
            return
        whole = self._decoded()
        self._out_to(whole, self._decided(whole))
        if len(self.near) > 2 * NEAR:
            self.near = self.near[-NEAR:]
            self.done = self._decided(self._decoded())

    def end(self) -> None:
        whole = self._decoded()
        self._out_to(whole, len(whole))

    def _decoded(self) -> str:
        return str(self.tokenizer.decode(self.near, skip_special_tokens=True))

    def _decided(self, whole: str) -> int:
        return next(UNDECIDED.finditer(whole)).start()

    def _out_to(self, whole: str, end: int) -> None:
        if end > self.done:
            self.out(whole[self.done : end])
            self.done = end

    def out(self, piece: str) -> None:
        if self.strip and not self.text:  # an answer's first word may have the space of a word in a sentence
            piece = piece.lstrip()
        self.text += piece
        if piece:
            with contextlib.suppress(BrokenPipeError):
                self.emit(piece)
