"""python bench/gpu_generate.py: tokens per second that a 1.3b model writes, one text at a time and 64 at once.

As infer/generate.py does it: its engine, a published folder, bf16 on a card. The weights are random, so that the length
is fixed: the end token is never taken before the last one.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PhiForCausalLM

from bench.gpu_rows import NAME, model_config
from infer.engine import Engine
from narae.artifact import open_artifact, root
from narae.follow import memory_mb
from narae.model import generation_defaults
from narae.packed import parent

PROMPT, BATCH = 16, 64
TOKENS = {False: 128, True: 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry_run", action="store_true")
    asked = parser.parse_args()
    folder, tokens = published(asked.dry_run), TOKENS[asked.dry_run]
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "repetition_penalty": 1.0}
    engine = Engine(folder, options, chat="false", seed=1, dtype="auto", penalize_prompt=False)
    prompt = "a" * PROMPT
    engine.answer(prompt)  # chooses kernels
    one = taken(lambda: engine.answer(prompt), engine)
    print(json.dumps({"one_stream": round(tokens / one, 1), "new_tokens": tokens}), flush=True)
    many = taken(lambda: list(engine.answers([prompt] * BATCH, BATCH)), engine)
    print(json.dumps({"batch64": round(BATCH * tokens / many, 1), "memory_mb": memory_mb()}))


def published(dry: bool) -> Path:
    """A folder as pretrain/run.py leaves it in final/, with random weights in bf16."""
    tokenizer = AutoTokenizer.from_pretrained(parent(open_artifact("packed", NAME), "tokenizer").path)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = PhiForCausalLM(model_config("1.3b", dry)).bfloat16()
    model.generation_config = generation_defaults(tokenizer)
    folder = root() / "runs" / "random"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def taken(write: Any, engine: Engine) -> float:
    """Seconds; the better of two."""
    found = []
    for _ in range(2):
        began = time.perf_counter()
        write()
        if engine.device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)


if __name__ == "__main__":
    main()
