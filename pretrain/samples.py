"""What the model writes: a few prompts gone on with, always in the same way, so that evaluations can be compared."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from narae.log import Mistake
from narae.mixture import Mixture
from narae.pulse import beat

PROMPTS, PROMPT_TOKENS = 4, 8
NEW_TOKENS, PENALTY = 48, 1.2
CUT = "\N{REPLACEMENT CHARACTER}"  # a character of which bytes are missing


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Whatever is asked of the model: random states, and whether it trains, are as before. No gradients."""
    training, plain, numbers = model.training, random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        model.train(training)
        random.setstate(plain)
        np.random.set_state(numbers)


def beginnings(held_out: Mixture, tokenizer: Any) -> list[str]:
    """The first words of some held-out documents: of the largest sources one each, of few sources several."""
    places: dict[str, list[tuple[int, int]]] = {}
    sizes: dict[str, int] = {}
    for number, rows in enumerate(held_out.sets):
        length = rows.sequence_length
        for name in rows.source_names:
            found = rows.openings(name)
            whole = found[found % length <= length - PROMPT_TOKENS]  # all of it in one row, if there is one
            places.setdefault(name, []).extend((number, place) for place in (whole if len(whole) else found).tolist())
            sizes[name] = sizes.get(name, 0) + rows.counts["sources"][name]["tokens"]
    names = sorted((name for name in places if places[name]), key=lambda name: (-sizes[name], name))[:PROMPTS]
    texts = []
    for turn, name in enumerate(names):
        wanted = PROMPTS // len(names) + (turn < PROMPTS % len(names))
        for part in range(wanted):
            number, place = places[name][len(places[name]) * part // wanted]
            rows = held_out.sets[number]
            row, begin = divmod(place, rows.sequence_length)
            ids = rows[row][begin : begin + PROMPT_TOKENS].tolist()
            ids = ids[: ids.index(rows.eos)] if rows.eos in ids else ids
            texts.append(tokenizer.decode(ids).rstrip(CUT))
    return [text for text in dict.fromkeys(texts) if text.strip()]


def encoded(prompts: Sequence[str], tokenizer: Any, held_out: Mixture) -> list[list[int]]:
    """As in generation: a document begins behind the end of another one."""
    found, context = [], held_out.sequence_length
    for prompt in prompts:
        ids = [held_out.sets[0].eos, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        if len(ids) >= context:
            raise Mistake(f"--prompts: {prompt[:30]!r} has {len(ids):,} tokens, rows have {context:,}: shorten it")
        found.append(ids)
    return found


def continued(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], held_out: Mixture, device: Any
) -> list[str]:
    """What follows each prompt. All ranks take part: under ZeRO-3 each holds a part of the weights."""
    texts, context, eos = [""] * len(prompts), held_out.sequence_length, held_out.sets[0].eos
    sharded = any(hasattr(weights, "ds_id") for weights in model.parameters())
    for length in sorted({len(ids) for ids in prompts}):  # those of one length together: without padding
        turn = [number for number, ids in enumerate(prompts) if len(ids) == length]
        beat(f"samples: {len(turn)} prompts of {length} tokens")
        ids = torch.tensor([list(prompts[number]) for number in turn], device=device)
        penalty = RepetitionPenaltyLogitsProcessor(PENALTY, prompt_ignore_length=length)
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=min(NEW_TOKENS, context - length),
                eos_token_id=eos,
                pad_token_id=held_out.sets[0].pad,
            ),
            logits_processor=LogitsProcessorList([penalty]),
            synced_gpus=sharded and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1,
        )
        for number, row in zip(turn, written.tolist(), strict=True):
            new = row[length:]
            new = new[: new.index(eos)] if eos in new else new
            before = tokenizer.decode(row[1:length], skip_special_tokens=True)
            whole = tokenizer.decode([*row[1:length], *new], skip_special_tokens=True)
            texts[number] = whole[len(before) :].rstrip(CUT)
    return texts
