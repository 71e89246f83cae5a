"""Which weights decay, what Muon does to a matrix, and the same losses with and without DeepSpeed."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import HOME
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM
from transformers.training_args import OptimizerNames

from narae.log import Mistake
from pretrain import optimizer
from pretrain.trainer import Pretrainer

ARGS: Any = SimpleNamespace(learning_rate=0.01, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, weight_decay=0.1)
SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
# Losses of 20 steps of two ranks with accumulation, beside one plain loop: measured 0.0003 in fp32 and 0.0013 in bf16.
# A first step too many in Adam moves them by 0.02, a clipped Muon update by 0.09.
WAYS = {
    "muon-ddp-fp32": 0.002,
    "muon-2-fp32-10": 0.002,
    "muon-3-fp32-10": 0.002,
    "muon-1-bf16-10": 0.005,
    "muon-2-bf16-10": 0.005,
    "adamw-0-bf16": 0.008,
}
PLAIN = ("muon-plain-fp32", "muon-plain-bf16", "adamw-plain-bf16")


def phi() -> nn.Module:
    torch.manual_seed(1)
    return PhiForCausalLM(PhiConfig(vocab_size=32, max_position_embeddings=8, **SMALL))


def names(model: nn.Module, group: dict[str, Any]) -> set[str]:
    own = {id(weights) for weights in group["params"]}
    return {name for name, weights in model.named_parameters() if id(weights) in own}


def test_matrices_decay_and_vectors_do_not() -> None:
    model = phi()
    matrices, vectors = optimizer.groups(model, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(name.endswith(".weight") and "norm" not in name for name in names(model, matrices))
    assert all(name.endswith(".bias") or "norm" in name for name in names(model, vectors))
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_the_run_takes_the_optimizer_that_it_is_told() -> None:
    args = SimpleNamespace(**vars(ARGS), optim=OptimizerNames.ADAMW_TORCH_FUSED, bf16=False, fp16=False)
    for kind, expected in (("muon", optimizer.Muon), ("adamw", torch.optim.AdamW)):
        run: Any = SimpleNamespace(optimizer=None, args=args, model=phi(), rule={"kind": kind}, _stage=None)
        run._norm_before = None
        assert type(Pretrainer.create_optimizer(run)) is expected


def test_tied_weights_stand_in_one_group_once() -> None:
    tied = LlamaConfig(vocab_size=32, tie_word_embeddings=True, num_key_value_heads=2, **SMALL)
    model = LlamaForCausalLM(tied)
    matrices, _ = optimizer.groups(model, 0.1)
    assert sum(one is model.lm_head.weight for one in matrices["params"]) == 1
    assert not any(one is model.lm_head.weight for one in optimizer.hidden_matrices(model))


def test_muon_takes_the_blocks_matrices_only() -> None:
    model = phi()
    stepped = optimizer.create(model, ARGS, "muon", muon_learning_rate=0.02)
    adam, vectors, muon = stepped.param_groups
    assert names(model, adam) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert len(names(model, muon)) == 2 * 6  # q, k, v, dense, fc1, fc2
    assert [group["lr"] for group in stepped.param_groups] == [0.01, 0.01, 0.02]
    assert [group["weight_decay"] for group in stepped.param_groups] == [0.1, 0.0, 0.1]
    assert not set.intersection(*(names(model, group) for group in (adam, vectors, muon)))


def test_adamw_is_fused_and_equals_the_plain_one() -> None:
    one, other = phi(), phi()
    fused = optimizer.create(one, ARGS)
    plain = torch.optim.AdamW(optimizer.groups(other, 0.1), lr=0.01, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    assert fused.defaults["fused"]
    for seed in range(3):
        for model, stepped in ((one, fused), (other, plain)):
            torch.manual_seed(seed)
            for weights in model.parameters():
                weights.grad = torch.randn_like(weights)
            stepped.step()
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_where_adamw_is_not_fused_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = torch.optim.AdamW

    def unfused(parts: Any, fused: bool = False, **words: Any) -> torch.optim.AdamW:
        if fused:
            raise RuntimeError("`fused=True` requires all the params to be on another device")
        return stock(parts, **words)

    monkeypatch.setattr(torch.optim, "AdamW", unfused)
    assert not optimizer.create(phi(), ARGS).defaults["fused"]
    assert "AdamW is not fused on this device: `fused=True` requires" in capsys.readouterr().err


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (12, 4), (4, 12)])
def test_an_update_is_nearly_orthogonal(rows: int, columns: int) -> None:
    """U S V becomes U V but for a factor between 0.6 and 1.25 in each direction, whatever the scale."""
    torch.manual_seed(1)
    left, _, right = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    spread = torch.linspace(1.0, 3.0, min(rows, columns))
    for scale in (1e-3, 1e3):
        found = left.mT @ optimizer.orthogonal(scale * left * spread @ right).float() @ right.mT
        assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.25
        assert (found - found.diagonal().diag()).abs().max() < 0.05


def test_a_step_of_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, with the orthogonal matrix left out: momentum, Nesterov, decay, and sqrt(rows / columns) = 2."""
    monkeypatch.setattr(optimizer, "orthogonal", lambda matrix: matrix)
    weights, bias = nn.Parameter(torch.ones(4, 1)), nn.Parameter(torch.zeros(2))
    muon = {"params": [weights], "lr": 0.5, "momentum": 0.75, "weight_decay": 0.1, "use_muon": True}
    adam = {"params": [bias], "lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0, "use_muon": False}
    stepped = optimizer.Muon([adam, muon])
    weights.grad, bias.grad = torch.ones(4, 1), torch.ones(2)
    stepped.step()
    # momentum 0.25, update 0.25 × 1 + 0.75 × 0.25 = 0.4375; 1 × (1 - 0.5 × 0.1) - 0.5 × 2 × 0.4375 = 0.5125
    torch.testing.assert_close(weights.detach(), torch.full((4, 1), 0.5125))
    torch.testing.assert_close(bias.detach(), torch.full((2,), -0.1))
    stepped.step()
    # momentum 0.4375, update 0.25 + 0.75 × 0.4375 = 0.578125; 0.5125 × 0.95 - 0.578125 = -0.09125
    torch.testing.assert_close(weights.detach(), torch.full((4, 1), -0.09125))


def test_one_schedule_scales_both() -> None:
    stepped = optimizer.create(phi(), ARGS, "muon")
    schedule = torch.optim.lr_scheduler.LambdaLR(stepped, lambda step: 0.5**step)
    stepped.step()
    schedule.step()
    assert [group["lr"] for group in stepped.param_groups] == [0.005, 0.005, 0.01]


def test_a_loaded_muon_goes_on_to_the_bit(tmp_path: Path) -> None:
    ids = torch.arange(16).view(2, 8)

    def go(model: nn.Module, stepped: torch.optim.Optimizer, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            stepped.step()
            stepped.zero_grad()
            found.append(loss.item())
        return found

    model = phi().eval()
    stepped = optimizer.create(model, ARGS, "muon")
    go(model, stepped, 3)
    torch.save(stepped.state_dict(), tmp_path / "optimizer.pt")
    again, forgetful = copy.deepcopy(model), copy.deepcopy(model)
    straight = go(model, stepped, 3)
    loaded = optimizer.create(again, ARGS, "muon")
    loaded.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    assert go(again, loaded, 3) == straight
    assert go(forgetful, optimizer.create(forgetful, ARGS, "muon"), 3) != straight


def test_another_name() -> None:
    with pytest.raises(Mistake, match="--optimizer lion: it is adamw or muon"):
        optimizer.create(phi(), ARGS, "lion")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The losses of every way, on two ranks with accumulation; those with -10 went through a checkpoint."""
    folder = tmp_path_factory.mktemp("stages")
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(HOME / "tests/pretrain/stages.py"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        done = subprocess.run(
            [sys.executable, *words, str(folder), *WAYS, *PLAIN],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[float]] = json.loads((folder / "losses.json").read_text())
    return found


@pytest.mark.parametrize("way", WAYS)
def test_every_stage_follows_the_plain_loop(way: str, ranks: dict[str, list[float]]) -> None:
    kind, _, precision, *_ = way.split("-")
    plain = ranks[f"{kind}-plain-{precision}"]
    assert plain[-1] < plain[0] - 0.3
    assert ranks[way] == pytest.approx(plain, abs=WAYS[way])
