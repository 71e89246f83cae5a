"""The loss that never holds tokens × vocabulary equals the one that does, and so do its gradients."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from pretrain import loss

SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(("kind", "shape"), [(PhiForCausalLM, PhiConfig), (LlamaForCausalLM, LlamaConfig)])
@pytest.mark.parametrize("rows_at_a_time", [1, 7, 1000])
def test_equals_the_stock_loss(kind: type, shape: type, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 96 * rows_at_a_time)
    torch.manual_seed(1)
    model = kind(shape(**SHAPE)).double()
    ids = torch.randint(0, 96, (3, 16))
    labels = ids.clone()
    labels[1, 4:9] = loss.IGNORED
    labels[2] = loss.IGNORED
    stock = model(input_ids=ids, labels=labels).loss
    stock.backward()
    expected = {name: weights.grad.clone() for name, weights in model.named_parameters()}
    model.zero_grad()
    assert loss.use_loss_head(model)
    ours = model(input_ids=ids, labels=labels).loss
    (3 * ours).backward()
    # its sums are fp32, whatever the model's type
    assert ours.item() == pytest.approx(stock.item(), rel=1e-6)
    for name, weights in model.named_parameters():
        torch.testing.assert_close(weights.grad, 3 * expected[name], rtol=1e-5, atol=1e-7, msg=name)
    with torch.no_grad():
        assert model(input_ids=ids, labels=labels).loss.item() == pytest.approx(stock.item(), rel=1e-6)


def test_no_target_is_a_loss_of_zero() -> None:
    hidden = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(16, 8, requires_grad=True)
    value = loss.HeadLoss.apply(hidden, weight, None, torch.full((4,), loss.IGNORED))
    value.backward()
    assert value.item() == 0
    assert not hidden.grad.any() and not weight.grad.any()


def test_logits_stay_what_they_are() -> None:
    model = PhiForCausalLM(PhiConfig(**SHAPE)).eval()
    ids = torch.arange(10).unsqueeze(0)
    before = model(input_ids=ids).logits
    loss.use_loss_head(model)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert [name for name, _ in model.named_parameters() if "lm_head" in name] == ["lm_head.weight", "lm_head.bias"]
