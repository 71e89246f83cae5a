"""Train a byte-level BPE tokenizer on a corpus.

    python tokenizer/train.py                                  # the sample's: 4,096 entries
    python tokenizer/train.py --config configs/tokenizer/books.yaml --vocab_size 65536
    python tokenizer/train.py --corpus books --name books --weights reviews:0.2,novels:2

Any text comes back as it was, in NFC: every byte is an entry, so that nothing is ever unknown. The result is a folder
that transformers' AutoTokenizer loads, with the chat template that fine-tuning and serving use. The same corpus gives
the same bytes, with any number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from narae import artifact
from narae.artifact import Artifact, open_artifact
from narae.config import option, parse, resolved
from narae.documents import copies, parts, read_documents, shards
from narae.log import Mistake, Progress, say
from tokenizer.merging import Text, merges_of
from tokenizer.pieces import WORD, train_pieces
from tokenizer.words import Words, count_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMED = ["<|endoftext|>", "<|pad|>", "<|prompt|>", "<|assistant|>", "<|endofanswer|>", "<|mask|>", "<|system|>"]
SPECIAL = [*NAMED, *(f"<|reserved_{n}|>" for n in range(16 - len(NAMED)))]  # ids 0 to 15: later needs move no entry

ENGINES = "bpe", "sentencepiece"

# The characters that stand for the 256 bytes: themselves where they can be seen, the others from U+0100 on.
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]
BYTES = [chr(byte if byte in VISIBLE else 256 + HIDDEN.index(byte)) for byte in range(256)]

# What BPE never merges across. gigatoken and llama.cpp know these four by name; cl100k's cuts text exactly as llama3's.
# docs/decisions.md has what each is worth.
ENGLISH, SPACES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES,
    "qwen2": ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES,
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENGLISH}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENGLISH}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES,
}
# Ours: llama3's, and a particle at the end of a word is a piece of its own. bench/patterns.py has what it is worth, and
# docs/decisions.md why it is not the default.
PARTICLE = (
    "(?:에서는|에서|에게|으로는|으로|까지|부터|처럼|보다|한테|라고|이나|이라|은|는|이|가|을|를|에|의|도|만|로|와|과|랑)"
    r"(?!\p{L})"
)
PATTERNS["particles"] = rf"[^\r\n\p{{L}}\p{{N}}]?[가-힣]+?(?={PARTICLE})|{PARTICLE}|" + PATTERNS["llama3"]

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
    engine: str = option("bpe", "bpe (byte-level) or sentencepiece (BPE over characters, bytes for the rare ones)")
    vocab_size: int = option(32_768, "entries, special tokens included; a multiple of 128")
    max_bytes: int = option(2_000_000_000, "about as much text is counted at most, from documents of all the corpus")
    weights: str = option("", "source:weight,… how often documents count, where it is not as the corpus says")
    pattern: str = option("llama3", f"what merges never cross: {', '.join(PATTERNS)}")
    model_max_length: int = option(512, "the longest input that transformers accepts without a warning")
    threads: int = option(0, "threads that count words (0: one per core)")


def main() -> None:
    config = parse(Config, config="configs/tokenizer/sample.yaml", about=__doc__)
    corpus = open_artifact("corpus", config.corpus, verify=config.verify)
    weights = weights_of(config, corpus)
    identity = resolved(config, neutral={"threads"})
    draft = artifact.begin("tokenizer", config.name, identity, [corpus], overwrite=config.overwrite)
    if draft is None:
        return
    with draft:
        words = count(corpus, weights, config)
        tokenizer = train(words, config)
        save(tokenizer, draft.path, config.model_max_length)
        split = "val" if corpus.counts["val"]["documents"] else "train"
        measured = measure(tokenizer, held_out(corpus, split, 8_000_000))
        draft.counts.update(entries=config.vocab_size, documents=words.documents, bytes=words.bytes, measured_on=split)
        draft.counts.update(measured, words=len(words.counts), sources=words.sources)
    say(
        f"tokenizer '{config.name}': {config.vocab_size:,} entries from {words.bytes / 1e6:,.1f} MB of "
        f"{words.documents:,} documents; on {split} {measured['bytes_per_token']} bytes per token, "
        f"{measured['tokens_per_eojeol']} tokens per eojeol: {draft.target}"
    )


def weights_of(config: Config, corpus: Artifact) -> dict[str, float]:
    """How often the documents of each source count. On the way, what the options must be."""
    smallest = -(-(len(SPECIAL) + 256) // 128) * 128
    if config.vocab_size % 128 or config.vocab_size < smallest:
        nearest = max(smallest, round(config.vocab_size / 128) * 128)
        raise Mistake(
            f"--vocab_size {config.vocab_size} is not a multiple of 128 from {smallest} on "
            f"(GPUs multiply other shapes more slowly): the nearest is {nearest}"
        )
    for key, choices in (("engine", ENGINES), ("pattern", PATTERNS)):
        if getattr(config, key) not in choices:
            raise Mistake(f"--{key} {getattr(config, key)} is not one of {', '.join(choices)}")
    sources = corpus.counts.get("sources", {})
    weights = {name: float(source["weight"]) for name, source in sources.items()}
    for one in filter(None, config.weights.split(",")):
        name, _, weight = one.strip().rpartition(":")
        if name not in sources:
            known = ", ".join(sources) or "none with a name"
            raise Mistake(f"--weights {one}: corpus '{config.corpus}' has these sources: {known}")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise Mistake(f"--weights {one}: a weight is a number, as in {name}:0.5") from None
        if not 0 <= weights[name] < 1000:
            raise Mistake(f"--weights {one}: a weight lies between 0 and 1000")
    return weights


def count(corpus: Artifact, weights: dict[str, float], config: Config) -> Words:
    sources = corpus.counts.get("sources", {})
    whole = sum(weights[name] * source["train"]["bytes"] for name, source in sources.items())
    whole = whole or corpus.counts["train"]["bytes"]
    share = min(1.0, config.max_bytes / max(whole, 1))
    bar = Progress("counting words", whole * share / 1e6, "MB")
    pieces = parts(shards(corpus.path, "train"))
    pattern = PATTERNS[config.pattern] if config.engine == "bpe" else WORD
    words = count_words(pieces, pattern, weights, share, config.threads, lambda size: bar.update(size / 1e6))
    bar.close()
    say(f"{len(words.counts):,} distinct words in {words.bytes / 1e6:,.1f} MB of '{config.corpus}'")
    return words


def train(words: Words, config: Config) -> "Tokenizer":
    if config.engine == "sentencepiece":
        tokenizer = train_pieces(words, config.vocab_size, SPECIAL)
    else:
        tokenizer = tokenizer_of(words, PATTERNS[config.pattern], config.vocab_size)
    entries = tokenizer.get_vocab_size()
    if entries < config.vocab_size:
        raise Mistake(
            f"{words.bytes:,} bytes of '{config.corpus}' yield {entries:,} entries, not {config.vocab_size:,}: "
            f"--vocab_size {entries // 128 * 128} fits, or train on more text"
        )
    return tokenizer


def tokenizer_of(words: Words, pattern: str, size: int) -> "Tokenizer":
    """A byte is written as a character of its own, as every byte-level vocabulary does: numbered in their order."""
    from tokenizers import Tokenizer, models

    ids = np.empty(256, np.int64)
    ids[np.argsort(BYTES)] = np.arange(256) + len(SPECIAL)
    entries = [*SPECIAL, *sorted(BYTES)]
    bar = Progress("merging pairs", size - len(entries), "entries")
    text = Text.of_bytes(words.text, words.counts, ids)
    merges = []
    for left, right in merges_of(text, size - len(entries), tell=bar.update):
        merges.append((entries[left], entries[right]))
        entries.append(entries[left] + entries[right])
    bar.close()
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = around(Tokenizer(models.BPE(vocabulary, merges)), pattern)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def around(tokenizer: "Tokenizer", pattern: str) -> "Tokenizer":
    """What stands before and behind the merges: NFC, the split, bytes as characters and back."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
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


def held_out(corpus: Artifact, split: str, most: int) -> Iterator[str]:
    """Texts of documents from all over a split, about so many bytes."""
    share = min(1.0, most / max(corpus.counts[split]["bytes"], 1))
    for document in read_documents(shards(corpus.path, split)):
        if copies(document.id, share):
            yield document.text


def measure(tokenizer: "Tokenizer", texts: Iterator[str]) -> dict[str, Any]:
    size = tokens = eojeols = 0
    for text in texts:
        size += len(text.encode())
        tokens += len(tokenizer.encode(text))
        eojeols += len(text.split())
    return {
        "bytes_per_token": round(size / max(tokens, 1), 3),
        "tokens_per_eojeol": round(tokens / max(eojeols, 1), 3),
    }


if __name__ == "__main__":
    main()
