"""Memory by part and stage, with figures that a person can derive."""

from typing import Any

import pytest
import torch
from torch import nn

from narae.activations import Meter, activations
from narae.footprint import Way, checkpoint_bytes, flops_per_token, footprint, moments_of, shape_of
from narae.model import SIZES, from_values, new_config, parameters

LENGTH = 64
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def tiny() -> Any:
    return shape_of(new_config("tiny", 1000, LENGTH), LENGTH)


def test_parameters_and_the_operations_of_a_token() -> None:
    shape = tiny()
    assert shape.parameters == parameters(SIZES["tiny"], 1000)
    assert (shape.embedding, shape.head) == (256_000, 257_000)
    assert shape.matrices == 4 * 12 * 256**2
    assert shape.flops_per_token == 6 * (shape.parameters - 256_000) + 12 * 4 * 256 * 64
    # The Phi of 1.34B parameters: 7.95 GFLOP a token in rows of 512
    assert flops_per_token(new_config("1.3b", 32_000, 512), 512) == pytest.approx(7.946e9, rel=1e-3)
    tied = shape_of(from_values(LLAMA | {"tie_word_embeddings": True}, 1000, LENGTH), LENGTH)
    assert tied.embedding == 0  # the matrix multiplies, too


def test_what_each_stage_holds_on_eight_ranks() -> None:
    shape = tiny()
    count = shape.parameters

    def parts(stage: int | None, moment: str, ranks: int = 8, **words: Any) -> dict[str, float]:
        return moments_of(shape, Way(stage, ranks, micro=1, **words))[moment]

    alone = parts(None, "step", ranks=1)
    assert {name: size for name, size in alone.items() if size} == {
        "weights": 4 * count,
        "gradients": 4 * count,
        "moments": 8 * count,
    }
    whole = parts(0, "step")
    assert [whole[name] for name in ("weights", "gradients", "masters", "moments", "accumulation")] == [
        2 * count,
        2 * count,
        4 * count,
        8 * count,
        4 * count,
    ]
    first = parts(1, "step")
    assert (first["masters"], first["moments"], first["accumulation"]) == (count / 2, count, 4 * count)
    second = parts(2, "step")
    assert (second["weights"], second["masters"], second["accumulation"]) == (2 * count, count / 2, count / 2)
    third = parts(3, "step")
    assert (third["weights"], third["masters"], third["moments"]) == (count / 4, count / 2, count)
    muon = parts(3, "step", muon=True)
    assert muon["moments"] == third["moments"] - 4 * shape.matrices / 8
    away = footprint(shape, Way(3, 8, offload=True))
    assert (away.parts["masters"], away.parts["moments"]) == (0, 0)
    assert away.host == count / 8 * (2 + 4 + 4 + 8)


def test_a_bucket_has_its_size_on_a_gpu_and_what_is_written_on_a_cpu() -> None:
    shape = tiny()
    sizes = {
        device: moments_of(shape, Way(3, micro=1, bucket=50_000_000, device=device))["step"]["buckets"]
        for device in ("cuda", "cpu")
    }
    assert sizes == {"cuda": 100_000_000, "cpu": 2 * shape.parameters}


def test_passes_before_leave_their_gradients() -> None:
    shape = tiny()
    once, often = (moments_of(shape, Way(micro=1, pieces=pieces))["head"] for pieces in (1, 2))
    assert (once["gradients"], often["gradients"]) == (0, 4 * shape.parameters)


def test_the_total_is_the_worst_moment() -> None:
    shape = tiny()
    way = Way(2, 2, micro=4)
    found = footprint(shape, way)
    moments = {name: sum(parts.values()) for name, parts in moments_of(shape, way).items()}
    assert found.moment == max(moments, key=lambda name: moments[name])
    assert found.model == pytest.approx(max(moments.values()))
    assert found.total == found.model + found.parts["process"]


def test_checkpoints() -> None:
    shape = tiny()
    count = shape.parameters
    found = [checkpoint_bytes(shape, stage) / count for stage in (None, 0, 1, 2, 3)]
    assert found == [12, 16, 16, 16, 14]
    assert checkpoint_bytes(shape, 2) - checkpoint_bytes(shape, 2, muon=True) == 4 * shape.matrices


def test_a_meter_follows_storages() -> None:
    meter = Meter()
    with meter:
        one = torch.zeros(100)
        view = one[10:]  # the same storage
        two = one + 1
        assert meter.now == 800
        del two
        del one
        assert meter.now == 400  # the view keeps it
        del view
    assert (meter.now, meter.most) == (0, 800)


@pytest.mark.parametrize("rows", [1, 3])
def test_blocks_add_up(rows: int) -> None:
    """Of each token in each block, by hand: 14 widths in bf16 (norm, q, k, v, attention, twice the inner ones) …"""
    config = new_config("tiny", 1000, LENGTH)
    config.num_hidden_layers = 6
    found = activations(config, rows, LENGTH, mask=False)
    config.num_hidden_layers = 5
    added = (found.kept - activations(config, rows, LENGTH, mask=False).kept) / rows / LENGTH
    assert 14 * 256 * 2 <= added <= 16 * 256 * 2
    less = activations(config, rows, LENGTH, checkpointing=True, mask=False)
    assert less.kept < found.kept / 4
    assert less.most < found.most


def test_extrapolation_is_what_a_run_takes() -> None:
    """Six blocks and three rows, from one and two of each, beside a real pass."""
    from transformers import AutoModel

    values = LLAMA | {"num_hidden_layers": 6, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    config = from_values(values, 64, LENGTH)
    model: nn.Module = AutoModel.from_config(config, dtype=torch.bfloat16).train()
    ids = torch.zeros(3, LENGTH, dtype=torch.long)
    meter = Meter()
    for one in [*model.parameters(), *model.buffers(), ids]:
        meter.know(one)
    with meter:
        last = model(input_ids=ids, use_cache=False).last_hidden_state
        kept = meter.now
        del last
    assert activations(config, 3, LENGTH, mask=False).kept == pytest.approx(kept, rel=0.01)
