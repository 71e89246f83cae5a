"""Loss and gradients of the head, of each type of numbers, against plain cross entropy in fp64."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from helpers import HOME
from runs import TWO_RANKS, finish
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from narae.chain import free_port
from pretrain import loss
from pretrain.loss import IGNORED, HeadLoss

TOKENS, WIDTH, ENTRIES = 37, 24, 96
# Of a value, rounding takes half of its last bit: 2**-9 of it in bf16, which keeps 8 bits, and 2**-12 in fp16. The
# logits are rounded, the softmax, and the result: together they stay below two such halves. fp32 only sums.
BOUND = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
DTYPES = list(BOUND)
Head = list[torch.Tensor | None]
SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def head(dtype: torch.dtype = torch.float32, bias: bool = True, tokens: int = TOKENS) -> tuple[Head, torch.Tensor]:
    """Logits that vary by 2; two labels in seven are ignored."""
    torch.manual_seed(1)
    parts = [torch.randn(tokens, WIDTH), torch.randn(ENTRIES, WIDTH) * 2 / WIDTH**0.5, torch.randn(ENTRIES) / 10]
    found: Head = [part.to(dtype).requires_grad_() for part in parts]
    labels = torch.randint(0, ENTRIES, (tokens,))
    labels[2::7] = labels[5::7] = IGNORED
    return [*found[:2], found[2] if bias else None], labels


def in_fp64(parts: Head, labels: torch.Tensor, scale: float = 1.0) -> list[torch.Tensor]:
    """The loss and its gradients; where nothing is to be predicted the mean is taken of one."""
    exact = [None if part is None else part.detach().double().requires_grad_() for part in parts]
    hidden, weight, bias = exact
    assert hidden is not None and weight is not None
    total = F.cross_entropy(F.linear(hidden, weight, bias), labels, ignore_index=IGNORED, reduction="sum")
    mean = total / max(1, int((labels != IGNORED).sum()))
    (scale * mean).backward()
    return [mean.detach(), *(part.grad for part in exact if part is not None and part.grad is not None)]


def ours(parts: Head, labels: torch.Tensor, scale: float = 1.0) -> list[torch.Tensor]:
    value = HeadLoss.apply(*parts, labels)
    (scale * value).backward()
    return [value.detach(), *(part.grad for part in parts if part is not None and part.grad is not None)]


def apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def agree(found: list[torch.Tensor], exact: list[torch.Tensor], dtype: torch.dtype, targets: int = 1) -> None:
    """No logit is above 8. Each is rounded by itself, so the mean of many is closer: with one target, only twice."""
    assert len(found) == len(exact)
    assert found[0].item() == pytest.approx(exact[0].item(), abs=8 * BOUND[dtype] / targets**0.5)
    for ours, plain in zip(found[1:], exact[1:], strict=True):
        assert apart(ours, plain) < (BOUND[dtype] if targets > 1 else 2 * BOUND[dtype])


@pytest.fixture
def rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def patch(rows: int) -> None:
        monkeypatch.setattr(loss, "CHUNK_ELEMENTS", ENTRIES * rows)

    return patch


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 8, 36, 37, 1000])
def test_gradients_are_those_of_fp64(
    rows: int, dtype: torch.dtype, bias: bool, rows_at_a_time: Callable[[int], None]
) -> None:
    """In chunks of one token, in five of which the last is not full, with one token left over, in one, in less."""
    rows_at_a_time(rows)
    parts, labels = head(dtype, bias)
    found = ours(parts, labels)
    agree(found, in_fp64(parts, labels), dtype, targets=26)
    assert found[0].dtype == torch.float32
    assert {part.dtype for part in found[1:]} == {dtype}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.25, 3.0, -2.0])
def test_what_follows_the_loss_scales_the_gradients(scale: float, dtype: torch.dtype) -> None:
    parts, labels = head(dtype)
    agree(ours(parts, labels, scale), in_fp64(parts, labels, scale), dtype, targets=26)


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_with_nothing_to_predict(dtype: torch.dtype, rows_at_a_time: Callable[[int], None]) -> None:
    rows_at_a_time(8)
    for ignored in (slice(8, 24), slice(0, 8), slice(32, None), slice(0, 36)):
        parts, labels = head(dtype)
        labels[ignored] = IGNORED
        labels[36] = 5 if ignored.stop == 36 else labels[36]
        found = ours(parts, labels)
        agree(found, in_fp64(parts, labels), dtype)
        assert not found[1][labels == IGNORED].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_predict_at_all(dtype: torch.dtype, rows_at_a_time: Callable[[int], None]) -> None:
    rows_at_a_time(8)
    parts, labels = head(dtype)
    found = ours(parts, torch.full_like(labels, IGNORED), scale=3.0)
    assert found[0].item() == 0
    assert len(found) == 4 and not any(part.any() for part in found[1:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_token(dtype: torch.dtype) -> None:
    parts, labels = head(dtype, tokens=1)
    found = ours(parts, labels)
    agree(found, in_fp64(parts, labels), dtype)
    # softmax less one-hot, times the hidden state: each entry's row is a multiple of it, and together they are nothing
    assert found[2].double().sum(dim=0).norm() < 4 * BOUND[dtype] * found[2].double().norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_gradient_is_worse_than_the_stock_ones(dtype: torch.dtype) -> None:
    """By more than one rounding more."""
    parts, labels = head(dtype, tokens=256)
    found, exact = ours(parts, labels), in_fp64(parts, labels)
    stock, _ = head(dtype, tokens=256)
    logits = F.linear(*stock)  # type: ignore[arg-type]
    F.cross_entropy(logits.float(), labels, ignore_index=IGNORED).backward()
    for ours_now, theirs, plain in zip(found[1:], stock, exact[1:], strict=True):
        assert theirs is not None and theirs.grad is not None
        assert apart(ours_now, plain) < 1.25 * apart(theirs.grad, plain)


def test_the_scale_of_a_loss_comes_before_rounding_to_fp16() -> None:
    """What scaling is for: divided by the number of targets first, gradients fall below what fp16 tells apart."""
    torch.manual_seed(1)
    parts: Head = [torch.randn(4096, WIDTH), torch.randn(ENTRIES, WIDTH) / 50, torch.zeros(ENTRIES)]
    parts = [part.half().requires_grad_() for part in parts if part is not None]
    labels = torch.randint(0, ENTRIES, (4096,))
    agree(ours(parts, labels, 2.0**15), in_fp64(parts, labels, 2.0**15), torch.float16, targets=4096)


def test_gradients_of_several_passes_add_up() -> None:
    parts, labels = head()
    once = ours(parts, labels)[1:]
    once = [part.clone() for part in once]
    twice = ours(parts, labels)[1:]
    for first, both in zip(once, twice, strict=True):
        torch.testing.assert_close(both, 2 * first)


def test_a_graph_that_is_kept_gives_the_same_gradient_again_or_says_that_it_cannot() -> None:
    parts, labels = head()
    exact = in_fp64(parts, labels, 4.0)
    value = HeadLoss.apply(*parts, labels)
    (2 * value).backward(retain_graph=True)
    try:
        (2 * value).backward()
    except RuntimeError:
        return
    agree([value.detach(), *(part.grad for part in parts if part is not None)], exact, torch.float32)  # type: ignore[misc]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_not_trained_has_no_gradient(frozen: int) -> None:
    parts, labels = head()
    exact = in_fp64(parts, labels)
    part = parts[frozen]
    assert part is not None
    part.requires_grad_(False)
    del exact[frozen + 1]
    agree(ours(parts, labels), exact, torch.float32)
    assert part.grad is None


@pytest.mark.parametrize("bias", [True, False])
def test_under_autocast(bias: bool, rows_at_a_time: Callable[[int], None]) -> None:
    """Weights and hidden states in fp32, products in bf16: what the Trainer does with --bf16."""
    rows_at_a_time(8)
    parts, labels = head(torch.float32, bias)
    with torch.autocast("cpu", torch.bfloat16):
        value = HeadLoss.apply(*parts, labels)
    (3 * value).backward()
    gradients = [part.grad for part in parts if part is not None and part.grad is not None]
    # what goes in is rounded as well
    exact = in_fp64(parts, labels, 3.0)
    assert value.item() == pytest.approx(exact[0].item(), abs=8 * BOUND[torch.bfloat16] / 26**0.5)
    for found, plain in zip(gradients, exact[1:], strict=True):
        assert found.dtype == torch.float32
        assert apart(found, plain) < 1.5 * BOUND[torch.bfloat16]


def test_sums_are_not_those_of_bf16() -> None:
    """3,072 entries, all as likely: the loss is ln 3,072 = 8.0301, and between 8 and 8.0625 bf16 has nothing."""
    hidden = torch.ones(64, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.zeros(3072, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.arange(64)
    value = HeadLoss.apply(hidden, weight, None, labels)
    assert value.item() == pytest.approx(math.log(3072), rel=1e-6)
    in_bf16 = -torch.log_softmax(F.linear(hidden, weight), dim=-1)[torch.arange(64), labels].float().mean()
    assert abs(in_bf16.item() / math.log(3072) - 1) > 3e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_target_that_was_ruled_out(dtype: torch.dtype) -> None:
    """Its probability is e**-200, which is zero in fp32; its loss is 200 nevertheless."""
    hidden = torch.tensor([[1.0], [0.0]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[200.0], [0.0], [-16.0]], dtype=dtype, requires_grad=True)
    value = HeadLoss.apply(hidden, weight, None, torch.tensor([1, 2]))
    value.backward()
    assert value.item() == pytest.approx((200 + math.log(3)) / 2, rel=1e-6)
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad[0].item() == pytest.approx(100, rel=BOUND[dtype])  # half of 200 for certain, less 0 wanted
    assert weight.grad.flatten().tolist() == [0.5, -0.5, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("place", "value"),
    # a bias of minus infinity is an entry that cannot be
    [*((place, value) for place in (0, 1) for value in (math.nan, math.inf, -math.inf)), (2, math.nan), (2, math.inf)],
)
def test_no_number_stays_none(
    place: int, value: float, dtype: torch.dtype, rows_at_a_time: Callable[[int], None]
) -> None:
    """In one token of one chunk, in one entry's weights or bias: a guard that looks at the loss has to see it."""
    rows_at_a_time(8)
    parts, labels = head(dtype)
    part = parts[place]
    assert part is not None and labels[20] != IGNORED
    with torch.no_grad():
        part[20 if place == 0 else 7, ...] = value
    assert not math.isfinite(ours(parts, labels)[0].item())


def test_products_that_overflow_in_fp16_are_seen() -> None:
    parts, labels = head(torch.float16)
    with torch.no_grad():
        for part in parts[:2]:
            assert part is not None
            part *= 200
    assert not math.isfinite(ours(parts, labels)[0].item())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("kind", "shape"), [(PhiForCausalLM, PhiConfig), (LlamaForCausalLM, LlamaConfig)])
def test_a_whole_model_has_the_gradients_of_fp64(
    kind: type, shape: type, autocast: bool, rows_at_a_time: Callable[[int], None]
) -> None:
    rows_at_a_time(7)
    torch.manual_seed(1)
    model = kind(shape(**SHAPE))
    plain = kind(shape(**SHAPE)).double()
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(0, 96, (3, 16))
    labels = ids.masked_fill(ids % 5 == 0, IGNORED)
    exact = plain(input_ids=ids, labels=labels).loss
    exact.backward()
    assert loss.use_loss_head(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = model(input_ids=ids, labels=labels).loss
    found.backward()
    assert found.item() == pytest.approx(exact.item(), rel=5e-4 if autocast else 1e-6)
    for (name, weights), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        if expected.grad.norm() > 1e-6:  # a bias of keys has none: it moves all scores alike
            # every product on the way back to the first layer is rounded
            assert apart(weights.grad, expected.grad) < (3e-2 if autocast else 1e-5), name


@pytest.mark.parametrize("ranks", [1, 2])
def test_weights_in_pieces_have_the_gradients_of_fp64(ranks: int) -> None:
    """ZeRO-3, where the head finds no weights unless they are gathered for it. configs/ds leaves small ones whole."""
    pytest.importorskip("deepspeed")
    words, environment = TWO_RANKS, os.environ | {"OMP_NUM_THREADS": "1"}
    if ranks == 1:  # what a launcher would say
        words, port = [sys.executable], str(free_port())
        environment |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
        }
    words = [*words, str(HOME / "tests/pretrain/sharded_head.py")]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = finish(process)
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(found) == 2 * ranks
    for one in found:
        assert "lm_head.weight" in one
        assert max(one.values()) < 1e-5, one
