"""torchrun tests/pretrain/stages.py WAY ... : a few losses of a tiny Phi, plain, under DDP and by ZeRO stage, as JSON.

A way is kind-place-precision: muon-plain-fp32, muon-ddp-fp32, adamw-0-bf16; kind-place-precision-10 saves a checkpoint
after step 10, and goes on in a new engine that loaded it.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed, nn
from transformers import PhiConfig, PhiForCausalLM, set_seed

from narae.training import before_deepspeed, quiet
from pretrain import optimizer

ARGS = SimpleNamespace(learning_rate=2e-3, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, weight_decay=0.1)
ENTRIES, ROWS, LENGTH, STEPS = 128, 4, 24, 20
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def tiny() -> nn.Module:
    set_seed(1)
    shape = PhiConfig(
        vocab_size=ENTRIES, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, hidden_act="gelu_pytorch_tanh", resid_pdrop=0.0,
    )  # fmt: skip
    return PhiForCausalLM(shape)


def batch(step: int) -> torch.Tensor:
    """Each entry is followed by its successor, but for one in five: something to learn."""
    generator = torch.Generator().manual_seed(step)
    rows = [torch.randint(ENTRIES, (ROWS, 1), generator=generator)]
    for _ in range(LENGTH - 1):
        other = torch.rand(ROWS, 1, generator=generator) < 0.2
        random = torch.randint(ENTRIES, (ROWS, 1), generator=generator)
        rows.append(torch.where(other, random, (rows[-1] + 1) % ENTRIES))
    return torch.cat(rows, dim=1)


def plain(kind: str, precision: str, model: Any = None, share: bool = False) -> Iterator[float]:
    model = model or tiny()
    stepped = optimizer.create(getattr(model, "module", model), ARGS, kind)
    for step in range(STEPS):
        rows = batch(step).chunk(WORLD)[RANK] if share else batch(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        stepped.step()
        stepped.zero_grad()
        yield loss.item()


def zero(kind: str, stage: int, precision: str, save_after: int, folder: Path) -> Iterator[float]:
    import deepspeed

    block = {"stage": stage} | (
        {"reduce_scatter": False, "stage3_param_persistence_threshold": 0} if stage == 3 else {}
    )
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": ROWS // WORLD // 2,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.0,  # absent, it would be 1
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": block,
    }
    if stage and (kind, stage, precision) != ("muon", 2, "bf16"):  # as narae/zero.py has it
        config["data_types"] = {"grad_accum_dtype": "fp32"}

    def start() -> Any:
        model = tiny()
        stepped = optimizer.create(model, ARGS, kind, stage=stage)
        return deepspeed.initialize(model=model, optimizer=stepped, config=config)[0]

    engine = start()
    for step in range(STEPS):
        total = 0.0
        for rows in batch(step).chunk(WORLD)[RANK].chunk(2):
            loss = engine(input_ids=rows, labels=rows).loss
            engine.backward(loss)
            engine.step()
            total += loss.item() / 2
        yield total
        if step + 1 == save_after:
            engine.save_checkpoint(str(folder))
            engine = start()
            engine.load_checkpoint(str(folder))


def mean(losses: Iterator[float]) -> list[float]:
    """Over the ranks: each sees its own share of a batch."""
    means = torch.tensor(list(losses))
    distributed.all_reduce(means)
    return (means / WORLD).tolist()


def main() -> None:
    quiet()
    before_deepspeed()
    import deepspeed

    deepspeed.init_distributed("gloo", verbose=False)
    found = {}
    for way in sys.argv[2:]:
        kind, place, precision, *saved = way.split("-")
        if place == "plain":
            found[way] = list(plain(kind, precision))
        elif place == "ddp":
            model = nn.parallel.DistributedDataParallel(tiny())
            found[way] = mean(plain(kind, precision, model, share=True))
        else:
            folder = Path(sys.argv[1]) / way
            found[way] = mean(zero(kind, int(place), precision, int(saved[0]) if saved else 0, folder))
    if RANK == 0:
        (Path(sys.argv[1]) / "losses.json").write_text(json.dumps(found))
    distributed.barrier()


if __name__ == "__main__":
    main()
