"""Attention in blocks beside torch's kernel and fp64; when it steps aside; and whole models that use it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)
from transformers.models.phi.modeling_phi import eager_attention_forward

from pretrain import attention
from pretrain.attention import LONGEST, NAME, QUERIES, attend, blocks_for

SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ROWS, HEADS, WIDTH = 2, 2, 16
# The sums are those of torch's kernel in another order
BOUND = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}
DTYPES = list(BOUND)
PHI, LLAMA = (PhiForCausalLM, PhiConfig), (LlamaForCausalLM, LlamaConfig)
Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Module:
    is_causal = True


class Looks:
    is_causal = False


def states(tokens: int, dtype: torch.dtype = torch.float32, width: int = WIDTH, heads: int = HEADS) -> Three:
    """Cut out of one product and turned around, as models give them: not contiguous."""
    torch.manual_seed(1)
    whole = torch.randn(ROWS, tokens, heads, 3 * width).to(dtype)
    query, key, value = (one.transpose(1, 2).detach().requires_grad_() for one in whole.split(width, -1))
    assert tokens == 1 or not query.is_contiguous()
    return query, key, value


def documents(tokens: int, rows: int = ROWS) -> torch.Tensor:
    """Row n has documents of 50 + 30 n tokens, and no token sees another document."""
    apart = torch.stack([torch.arange(tokens) // (50 + 30 * row) for row in range(rows)])
    return ((apart[:, :, None] == apart[:, None, :]) & torch.ones(tokens, tokens, dtype=torch.bool).tril())[:, None]


def results(found: torch.Tensor, given: Three) -> list[torch.Tensor]:
    """What came out, and the gradients of what went in."""
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2)).to(found.dtype)
    return [found.detach(), *torch.autograd.grad(found, given, weights)]


def by_torch(given: Three, mask: torch.Tensor | None = None, scale: float | None = None) -> list[torch.Tensor]:
    found = F.scaled_dot_product_attention(*given, attn_mask=mask, is_causal=mask is None, scale=scale)
    return results(found.transpose(1, 2), given)


def in_fp64(given: Three, mask: torch.Tensor | None = None, scale: float | None = None) -> list[torch.Tensor]:
    """By the definition: a softmax over the keys that are seen."""
    query, key, value = exact = tuple(one.detach().double().requires_grad_() for one in given)
    tokens = query.shape[2]
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril() if mask is None else mask
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scale is None else scale)
    found = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ value
    return results(found.transpose(1, 2), exact)  # type: ignore[arg-type]


def apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm().clamp(min=1e-30))


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that torch's kernel is given."""
    calls: list[Any] = []
    kernel = attention.sdpa_attention_forward

    def record(*values: Any, **words: Any) -> Any:
        calls.append(values)
        return kernel(*values, **words)

    monkeypatch.setattr(attention, "sdpa_attention_forward", record)
    return calls


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [None, 1, ROWS], ids=["causal", "one mask", "a mask per row"])
@pytest.mark.parametrize("tokens", [1, 7, QUERIES, QUERIES + 1, 300])
def test_results_and_gradients(tokens: int, masked: int | None, dtype: torch.dtype, handed: list[Any]) -> None:
    given = states(tokens, dtype)
    mask = None if masked is None else documents(tokens, masked)
    ours = results(attend(Module(), *given, mask)[0], given)
    assert not handed
    for one, kernel, exact in zip(ours, by_torch(given, mask), in_fp64(given, mask), strict=True):
        assert one.dtype == dtype and one.shape == exact.shape
        if tokens == 1 and exact.norm() == 0:  # of query and key, where there is one key alone
            assert one.norm() == 0
        elif dtype == torch.float32:
            assert apart(one, exact) < BOUND[dtype]
        else:
            assert apart(one, exact) < min(BOUND[dtype], 2 * apart(kernel, exact) + 1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_a_scale_of_its_own(scale: float, dtype: torch.dtype, handed: list[Any]) -> None:
    """At 1 scores deviate by 5, and bf16 rounds them, as in transformers' eager attention; torch's keeps them fp32."""
    given = states(150, dtype, width=24)
    ours = results(attend(Module(), *given, None, scaling=scale)[0], given)
    assert not handed
    module: Any = Module()
    module.num_key_value_groups, module.training = 1, True
    later = torch.full((1, 1, 150, 150), -torch.inf, dtype=dtype).triu(1)
    eager = results(eager_attention_forward(module, *given, later, scale)[0], given)
    kernel, exact = by_torch(given, scale=scale), in_fp64(given, scale=scale)
    for one, torchs, plain, true in zip(ours, kernel, eager, exact, strict=True):
        assert apart(one, true) < max(2e-6, 2 * apart(torchs, true), 1.2 * apart(plain, true))


def test_no_token_sees_a_later_one(handed: list[Any]) -> None:
    given = states(300)
    found, _ = attend(Module(), *given, None)
    for place in (0, QUERIES - 1, QUERIES, 250):
        (*gradients,) = torch.autograd.grad(found[:, place].sum(), given, retain_graph=True)
        for gradient in gradients:
            assert not gradient[:, :, place + 1 :].any() and gradient[:, :, : place + 1].isfinite().all()
        assert gradients[2][:, :, : place + 1].all()
    assert not handed


def test_sums_over_blocks_keep_what_is_small(handed: list[Any]) -> None:
    """Each token sees itself and the first one, by halves. That one's value gets 256 from the first block, then 1 from
    each of seven more; bf16 counts by twos from 256 on, and would stay there.
    """
    given: Any = [torch.zeros(1, 1, 1024, 1, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    mask = torch.eye(1024, dtype=torch.bool)[None, None]
    mask[..., 0] = True
    found, _ = attend(Module(), *given, mask)
    weights = torch.zeros(1, 1024, 1, 1, dtype=torch.bfloat16)
    weights[:, 1:QUERIES], weights[:, 0], weights[:, QUERIES::QUERIES] = 4, 2, 2
    assert torch.autograd.grad(found, given[2], weights)[0][0, 0, 0] == 256 + 8  # 263 lies between two numbers of bf16
    assert not handed


def test_autocast_casts_it_as_it_casts_torchs_own(handed: list[Any]) -> None:
    given = states(200)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(Module(), *given, None)
        kernel = F.scaled_dot_product_attention(*given, is_causal=True).transpose(1, 2)
    assert not handed and found.dtype == kernel.dtype == torch.bfloat16
    exact = in_fp64(given)
    for one, torchs, true in zip(results(found, given), results(kernel, given), exact, strict=True):
        assert one.dtype == torchs.dtype
        assert apart(one, true) < 2 * apart(torchs, true) < 2 * BOUND[torch.bfloat16]


def cached(tokens: int) -> tuple[Three, dict[str, Any]]:
    query, key, value = states(tokens)
    return (query[:, :, -1:], key, value), {}


def grouped(tokens: int) -> tuple[Three, dict[str, Any]]:
    (query, _, _), (_, key, value) = states(tokens, heads=4), states(tokens)
    return (query, key, value), {}


def narrow(tokens: int) -> tuple[Three, dict[str, Any]]:
    query, key, value = states(tokens)
    return (query, key, value[..., :8]), {}


def padded(tokens: int) -> torch.Tensor:
    """Row 0 begins with two tokens of padding, which see nothing at all: a softmax over no keys is no number."""
    mask = documents(tokens)
    mask[0, :, :, :2] = False
    return mask


def prefix(tokens: int) -> torch.Tensor:
    """The first three tokens see one another."""
    mask = documents(tokens)
    mask[:, :, :3, :3] = True
    return mask


ASIDE: dict[str, Any] = {
    "a query of one beside cached keys": lambda: cached(9),
    "a long row": lambda: (states(LONGEST + 1, width=1), {}),
    "dropout": lambda: (states(9), {"dropout": 0.5}),
    "fewer key heads": lambda: grouped(9),
    "narrower values": lambda: narrow(9),
    "a mask of floats": lambda: (states(9), {"attention_mask": -torch.ones(ROWS, 1, 9, 9).tril()}),
    "a mask per head": lambda: (states(9), {"attention_mask": documents(9).expand(-1, HEADS, -1, -1)}),
    "a mask of keys": lambda: (states(9), {"attention_mask": torch.eye(9, dtype=torch.bool)[:1].expand(ROWS, 1, 1, 9)}),
    "padding that sees nothing": lambda: (states(9), {"attention_mask": padded(9)}),
    "a prefix that sees ahead": lambda: (states(9), {"attention_mask": prefix(9)}),
    "a position bias": lambda: (states(9), {"position_bias": torch.zeros(ROWS, HEADS, 9, 9)}),
    "a call that is not causal": lambda: (states(9), {"is_causal": False}),
}


@pytest.mark.parametrize("case", ASIDE)
def test_torchs_kernel_takes(case: str, handed: list[Any]) -> None:
    given, words = ASIDE[case]()
    module: Any = Module()
    module.num_key_value_groups = given[0].shape[1] // given[1].shape[1]
    torch.manual_seed(3)
    found, _ = attend(module, *given, **{"attention_mask": None, **words})
    assert len(handed) == 1
    mask, dropout, causal = words.get("attention_mask"), words.get("dropout", 0.0), "is_causal" not in words
    torch.manual_seed(3)
    if case == "fewer key heads":
        given = (given[0], given[1].repeat_interleave(2, 1), given[2].repeat_interleave(2, 1))
    same = causal and mask is None and given[0].shape[2] > 1 and "position_bias" not in words
    if "position_bias" in words:
        mask = documents(9) | torch.ones(9, 9, dtype=torch.bool).tril()
    expected = F.scaled_dot_product_attention(*given, attn_mask=mask, dropout_p=dropout, is_causal=same)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_torchs_kernel_takes_what_learns_nothing(handed: list[Any]) -> None:
    given = states(9)
    with torch.no_grad():
        attend(Module(), *given, None)
    frozen: Three = (given[0].detach(), given[1].detach(), given[2].detach())
    attend(Module(), *frozen, None)
    assert len(handed) == 2


def test_torchs_kernel_takes_a_module_that_is_not_causal(handed: list[Any]) -> None:
    given = states(9)
    attend(Looks(), *given, None)
    assert len(handed) == 1
    attend(Looks(), *given, None, is_causal=True)
    assert len(handed) == 1


def test_softcap_is_left_to_those_who_refuse_it(handed: list[Any]) -> None:
    with pytest.raises(ValueError, match="softcap"):
        attend(Module(), *states(9), None, softcap=30.0)
    assert len(handed) == 1


def model(kind: Any, attention: str = "sdpa", **words: Any) -> Any:
    """On blocks where `attention` is their name."""
    torch.manual_seed(1)
    made = kind[0](kind[1](**SHAPE, attn_implementation="sdpa", **words))
    if attention == NAME:
        assert blocks_for(made, torch.device("cpu")) == NAME
        made.set_attn_implementation(NAME)
    return made.train()


def batch(apart: bool, tokens: int = 150) -> dict[str, torch.Tensor]:
    """Positions that begin anew at 40 and 145 keep documents apart."""
    torch.manual_seed(2)
    ids = torch.randint(2, 96, (ROWS, tokens))
    places = torch.cat([torch.arange(40), torch.arange(tokens - 45), torch.arange(5)]).expand(ROWS, -1)
    return {"input_ids": ids, "labels": ids, **({"position_ids": places} if apart else {})}


def learned(model: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    loss = model(**given, use_cache=False).loss
    loss.backward()
    return {"loss": loss.detach(), **{name: weights.grad for name, weights in model.named_parameters()}}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Up to the order of sums. What is zero in theory, a key's bias, is small beside the others."""
    assert found.keys() == expected.keys()
    largest = max(float(one.norm()) for name, one in expected.items() if name != "loss")
    for name, one in expected.items():
        assert float((found[name] - one).norm()) <= 1e-5 * float(one.norm()) + 1e-6 * largest, name


@pytest.mark.parametrize("apart", [False, True], ids=["one document", "documents apart"])
@pytest.mark.parametrize("kind", [PHI, LLAMA], ids=["Phi", "Llama"])
def test_a_whole_model_learns_the_same(kind: Any, apart: bool, handed: list[Any]) -> None:
    expected = learned(model(kind), batch(apart))
    found = learned(model(kind, NAME), batch(apart))
    assert not handed
    same(found, expected)


def test_llama_with_fewer_key_heads_learns_the_same(handed: list[Any]) -> None:
    words = {"num_key_value_heads": 1}
    same(learned(model(LLAMA, NAME, **words), batch(True)), learned(model(LLAMA, **words), batch(True)))
    assert len(handed) == 2  # a layer each


def test_rows_filled_up_on_the_left(handed: list[Any]) -> None:
    given = batch(False)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    given["attention_mask"][0, :30] = 0
    same(learned(model(PHI, NAME), given), learned(model(PHI), given))
    assert handed


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool, handed: list[Any]) -> None:
    expected = learned(model(PHI, NAME), batch(True))
    frugal = model(PHI, NAME)
    enable = getattr(frugal, "activation_checkpointing_enable", None) or frugal.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    if reentrant:
        frugal.enable_input_require_grads()
    given = batch(True)
    calls: list[Any] = []
    frugal.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    same(learned(frugal, given), expected)
    assert len(calls) == 2  # forward, and once more on the way back


def test_judging_and_generation_use_torchs_kernel(handed: list[Any]) -> None:
    ids = batch(False)["input_ids"][:, :9]
    stock, ours = model(PHI).eval(), model(PHI, NAME).eval()
    with torch.no_grad():
        assert torch.equal(ours(input_ids=ids, labels=ids).loss, stock(input_ids=ids, labels=ids).loss)
    assert len(handed) == 2
    words = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    assert torch.equal(ours.generate(ids, **words), stock.generate(ids, **words))


def test_a_saved_model_does_not_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = model(PHI, NAME).eval()
    ours.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text(encoding="utf-8")
    for known in (AttentionInterface, AttentionMaskInterface):  # as where it was never heard of
        monkeypatch.delitem(known._global_mapping, NAME)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match=NAME):
        loaded.set_attn_implementation(NAME)


def test_only_a_cpu_and_only_models_that_choose() -> None:
    made: Any = model(PHI)
    assert blocks_for(made, torch.device("cuda")) is None
    assert blocks_for(torch.nn.Linear(2, 2), torch.device("cpu")) is None
    made._supports_sdpa = False  # as Gemma 2, whose scores are capped
    assert blocks_for(made, torch.device("cpu")) is None
