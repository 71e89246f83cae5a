"""Train a byte-level BPE tokenizer on a corpus.

    python tokenizer/train.py                                  # the sample's: 4,096 entries
    python tokenizer/train.py --config configs/tokenizer/books.yaml --vocab_size 65536

Any text comes back as it was, in NFC: every byte is an entry, so that nothing is ever unknown. The result is a folder
that transformers' AutoTokenizer loads, with the chat template that fine-tuning and serving use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narae import artifact
from narae.artifact import Artifact, open_artifact
from narae.config import option, parse, resolved
from narae.documents import read_documents, shards
from narae.log import Mistake, Progress, say

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMED = ["<|endoftext|>", "<|pad|>", "<|prompt|>", "<|assistant|>", "<|endofanswer|>", "<|mask|>", "<|system|>"]
SPECIAL = [*NAMED, *(f"<|reserved_{n}|>" for n in range(16 - len(NAMED)))]  # ids 0 to 15: later needs move no entry

# What BPE never merges across. Only splits that llama.cpp knows by name: it can export no other. cl100k's cuts text
# exactly as llama3's. Bytes per token on held-out Korean, all trained alike (8,192 entries, 20 MB):
# gpt2 4.244, llama3 4.309, qwen2 4.286, o200k 4.309. llama3's is the one that most programs know.
ENGLISH, SPACES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES,
    "qwen2": ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES,
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENGLISH}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENGLISH}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES,
}

# <|endofanswer|> lies inside the generation marks: the loss of fine-tuning covers them, and the end must be learned.
# The space after a role's mark gives a message's first word the tokens that it has within a text: docs/decisions.md.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- '<|system|> ' + message['content'] -}}
    {%- elif message['role'] == 'user' -%}
        {{- '<|prompt|> ' + message['content'] -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- '<|assistant|>' -}}
        {%- generation -%}
            {{- ' ' + message['content'] + '<|endofanswer|>' -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception('the role of a message is system, user or assistant, not ' + message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""


@dataclass
class Config:
    name: str = option("sample", "the name of the tokenizer")
    overwrite: bool = option(False, "replace a tokenizer of that name")
    verify: bool = option(False, "hash the corpus before reading it")
    corpus: str = option("sample", "the corpus to train on")
    vocab_size: int = option(32_768, "entries, special tokens included; a multiple of 128")
    max_bytes: int = option(2_000_000_000, "text to train on at most, from evenly spaced documents")
    pattern: str = option("llama3", f"what merges never cross: {', '.join(PATTERNS)}")
    model_max_length: int = option(512, "the longest input that transformers accepts without a warning")


def main() -> None:
    config = parse(Config, config="configs/tokenizer/sample.yaml", about=__doc__)
    _check(config)
    corpus = open_artifact("corpus", config.corpus, verify=config.verify)
    draft = artifact.begin("tokenizer", config.name, resolved(config), [corpus], overwrite=config.overwrite)
    if draft is None:
        return
    with draft:
        sample = Sample(corpus, "train", config.max_bytes)
        tokenizer = train(sample, config)
        save(tokenizer, draft.path, config.model_max_length)
        held_out = Sample(corpus, "val" if corpus.counts["val"]["documents"] else "train", 8_000_000)
        measured = measure(tokenizer, held_out)
        draft.counts.update(
            entries=config.vocab_size, documents=sample.documents, bytes=sample.bytes, measured_on=held_out.split
        )
        draft.counts.update(measured)
    say(
        f"tokenizer '{config.name}': {config.vocab_size:,} entries from {sample.bytes / 1e6:,.1f} MB of "
        f"{sample.documents:,} documents; on {held_out.split} {measured['bytes_per_token']} bytes per token, "
        f"{measured['tokens_per_eojeol']} tokens per eojeol: {draft.target}"
    )


def _check(config: Config) -> None:
    smallest = -(-(len(SPECIAL) + 256) // 128) * 128
    if config.vocab_size % 128 or config.vocab_size < smallest:
        nearest = max(smallest, round(config.vocab_size / 128) * 128)
        raise Mistake(
            f"--vocab_size {config.vocab_size} is not a multiple of 128 from {smallest} on "
            f"(GPUs multiply other shapes more slowly): the nearest is {nearest}"
        )
    if config.pattern not in PATTERNS:
        raise Mistake(f"--pattern {config.pattern} is not one of {', '.join(PATTERNS)}")


class Sample:
    """The texts of evenly spaced documents, `max_bytes` at most. The same corpus gives the same texts."""

    def __init__(self, corpus: Artifact, split: str, max_bytes: int):
        self.corpus, self.split, self.max_bytes = corpus, split, max_bytes
        self.documents = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        self.documents = self.bytes = 0
        total = max(self.corpus.counts[self.split]["bytes"], self.max_bytes)
        bar = Progress(
            f"reading {self.split}", min(self.corpus.counts[self.split]["bytes"], self.max_bytes) / 1e6, "MB"
        )
        for number, document in enumerate(read_documents(shards(self.corpus.path, self.split))):
            chosen = (number + 1) * self.max_bytes // total > number * self.max_bytes // total
            size = len(document.text.encode())
            if chosen and self.bytes + size <= self.max_bytes:
                self.documents += 1
                self.bytes += size
                yield document.text
                bar.update(self.bytes / 1e6)
        bar.close()


def train(texts: Sample, config: Config) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[config.pattern]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,  # a pair that occurs once is somebody's typing error, or the only one of its kind
        show_progress=False,
    )

    def feed() -> Iterator[str]:
        yield from texts
        say(f"read {texts.bytes / 1e6:,.1f} MB of '{config.corpus}'; merging pairs")

    tokenizer.train_from_iterator(feed(), trainer)
    entries = tokenizer.get_vocab_size()
    if entries < config.vocab_size:
        raise Mistake(
            f"{texts.bytes:,} bytes of '{config.corpus}' yield {entries:,} entries, not {config.vocab_size:,}: "
            f"--vocab_size {entries // 128 * 128} fits, or train on more text"
        )
    return tokenizer


def save(tokenizer: "Tokenizer", folder: Path, model_max_length: int) -> None:
    """A folder for AutoTokenizer."""
    from transformers import PreTrainedTokenizerFast

    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        mask_token="<|mask|>",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    whole.save_pretrained(str(folder))


def measure(tokenizer: "Tokenizer", texts: Sample) -> dict[str, Any]:
    tokens = eojeols = 0
    for text in texts:
        tokens += len(tokenizer.encode(text))
        eojeols += len(text.split())
    return {
        "bytes_per_token": round(texts.bytes / max(tokens, 1), 3),
        "tokens_per_eojeol": round(tokens / max(eojeols, 1), 3),
    }


if __name__ == "__main__":
    main()
