"""Phi whose rotation takes three operations, beside transformers' own: losses, gradients, words."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM
from transformers.models.phi import modeling_phi
from transformers.models.phi.modeling_phi import PhiAttention, apply_rotary_pos_emb

from pretrain.attention import NAME, blocks_for
from pretrain.rotary import Angles, Turn, TurningAttention, use_turning_attention

TOKENS = 20
SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
Learned = dict[str, torch.Tensor]


def phi(turning: bool, attention: str = "sdpa", share: float = 0.5, **words: Any) -> Any:
    """`share`: of a head that is turned. A head has 16 elements."""
    torch.manual_seed(1)
    theta = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share}
    model: Any = PhiForCausalLM(PhiConfig(**{**SHAPE, "rope_parameters": theta, **words}))
    with torch.no_grad():  # random weights look alike at all places: larger ones tell them apart
        for name, weights in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weights *= 20
    if attention == NAME:
        blocks_for(model, torch.device("cpu"))
    model.set_attn_implementation(attention)
    if turning:
        use_turning_attention(model)
    return model.train()


def batch(apart: bool = True, rows: int = 2, seed: int = 2) -> dict[str, Any]:
    """Rows of two documents, the second of them from another place on in each."""
    ids = torch.randint(2, 96, (rows, TOKENS), generator=torch.Generator().manual_seed(seed))
    given: dict[str, Any] = {"input_ids": ids, "labels": ids, "use_cache": False}
    if apart:
        begins = [7 + row + seed for row in range(rows)]
        places = [torch.cat([torch.arange(begin), torch.arange(TOKENS - begin)]) for begin in begins]
        given["position_ids"] = torch.stack(places)
    return given


def learned(model: Any, given: dict[str, Any]) -> Learned:
    model.zero_grad()
    loss = model(**given).loss
    loss.backward()
    return {"loss": loss.detach(), **{name: weights.grad.clone() for name, weights in model.named_parameters()}}


def apart(found: Learned, exact: Learned) -> float:
    """The largest distance of a gradient, or of the loss. A key's bias learns nothing: it moves all scores alike."""
    assert found.keys() == exact.keys()
    names = [name for name in exact if "k_proj.bias" not in name]
    return max(float((found[name].double() - exact[name]).norm() / exact[name].norm()) for name in names)


@pytest.fixture
def stock_turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each turn that transformers makes."""
    calls: list[int] = []

    def record(*values: Any, **words: Any) -> Any:
        calls.append(1)
        return apply_rotary_pos_emb(*values, **words)

    monkeypatch.setattr(modeling_phi, "apply_rotary_pos_emb", record)
    return calls


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("attention", ["eager", "sdpa", NAME])
@pytest.mark.parametrize("rows", [1, 2])
def test_it_learns_the_same(rows: int, attention: str, share: float, stock_turns: list[int]) -> None:
    found = learned(phi(True, attention, share), batch(rows=rows))
    assert not stock_turns
    expected = learned(phi(False, attention, share), batch(rows=rows))
    assert len(stock_turns) == 2
    assert apart(found, expected) < 1e-5
    assert apart(learned(phi(True, attention, share), batch(apart=False, rows=rows)), expected) > 0.01


@pytest.mark.parametrize(
    "words", [{"num_key_value_heads": 1}, {"num_attention_heads": 1}, {"hidden_size": 48}], ids=str
)
def test_other_heads(words: dict[str, int], stock_turns: list[int]) -> None:
    found = learned(phi(True, **words), batch())
    assert not stock_turns
    assert apart(found, learned(phi(False, **words), batch())) < 1e-5


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
@pytest.mark.parametrize("attention", ["eager", "sdpa", NAME])
def test_bf16_is_as_far_from_fp64_as_transformers(attention: str, autocast: bool) -> None:
    exact = learned(phi(False, "eager").double(), batch())

    def distance(model: Any) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return apart(learned(model if autocast else model.bfloat16(), batch()), exact)

    stock = distance(phi(False, "sdpa" if attention == NAME else attention))
    assert distance(phi(True, attention)) < 2 * stock < 0.2


def test_a_turn_by_hand() -> None:
    """A head of four of which two turn: (1, 0) by a right angle is (0, 1), and (0, 1) is (-1, 0); then the way back."""
    right = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])
    cos, sin, swap = Angles().of(*right, 4, torch.float32)
    heads = torch.tensor([[[[1.0, 0, 3, 4], [0, 1, 5, 6]]]], requires_grad=True)
    found = Turn.apply(heads, cos, sin, swap)
    assert found.tolist() == [[[[0, 1, 3, 4], [-1, 0, 5, 6]]]]
    (back,) = torch.autograd.grad(found, heads, torch.tensor([[[[0.0, 1, 3, 4], [-1, 0, 5, 6]]]]))
    assert torch.equal(back, heads.detach())


def test_backward_is_what_differences_say() -> None:
    turned = torch.randn(2, 3, 2, dtype=torch.float64).repeat(1, 1, 2)  # both halves by the same angle
    angles = Angles().of(turned.cos(), turned.sin(), 6, torch.float64)
    states = torch.randn(2, 3, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda one: Turn.apply(one, *angles), states)


@pytest.mark.parametrize("rows", [1, 2])
def test_angles_of_each_pass_are_its_own(rows: int) -> None:
    model, stock = phi(True), phi(False)
    for seed in range(4):
        assert apart(learned(model, batch(rows=rows, seed=seed)), learned(stock, batch(rows=rows, seed=seed))) < 1e-5


def test_angles_of_a_tensor_that_is_gone_are_not_taken_for_anothers() -> None:
    angles = Angles()
    for number in range(20):  # a tensor that is freed leaves its place in memory, and so its id, to the next
        cos = torch.full((1, 1, 2), float(number))
        assert angles.of(cos, cos, 2, torch.float32)[0].unique().item() == number
        assert {one.dtype for one in angles.of(cos, cos, 2, torch.bfloat16)} == {torch.bfloat16}
        del cos


def test_two_passes_before_the_way_back() -> None:
    model, stock = phi(True), phi(False)
    for one in (model, stock):
        (one(**batch(seed=2)).loss + 2 * one(**batch(seed=5)).loss).backward()
    for name, weights in stock.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, weights.grad, rtol=1e-4, atol=1e-6)


def test_angles_are_asked_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = phi(True, num_hidden_layers=3)
    seen: list[Any] = []
    kept = Angles.of
    monkeypatch.setattr(Angles, "of", lambda *values: seen.append(kept(*values)) or seen[-1])
    model(**batch())
    assert len(seen) == 3 and seen[0] is seen[1] is seen[2]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    model: Any = phi(True)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert apart(learned(model, batch()), learned(phi(False), batch())) < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa", NAME])
def test_judging_and_generation(attention: str, stock_turns: list[int]) -> None:
    model, stock = phi(True, attention).eval(), phi(False, "eager" if attention == "eager" else "sdpa").eval()
    given = batch()
    with torch.inference_mode():
        ours = model(**given).logits
        assert not stock_turns
        torch.testing.assert_close(ours, stock(**given).logits, rtol=1e-4, atol=1e-5)
        ids = given["input_ids"][:, :9]
        for cache in (True, False):
            words = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1, "use_cache": cache}
            assert torch.equal(model.generate(ids, **words), stock.generate(ids, **words))
    assert apart(learned(model.train(), given), learned(stock.train(), given)) < 1e-5  # and it learns after that


def test_attentions_are_given_to_who_asks() -> None:
    model, stock = phi(True, "eager"), phi(False, "eager")
    found, expected = (one(**batch(), output_attentions=True).attentions for one in (model, stock))
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_drops_the_same() -> None:
    found, expected = phi(True, "eager", attention_dropout=0.3), phi(False, "eager", attention_dropout=0.3)
    passes = []
    for model in (found, expected):
        torch.manual_seed(4)
        passes.append(learned(model, batch()))
    assert apart(*passes) < 1e-5
    without = learned(phi(True, "eager"), batch())
    assert apart(passes[0], without) > 0.01
    found.set_attn_implementation("sdpa")  # which drops whatever it is told to
    assert apart(learned(found.eval(), batch()), without) < 1e-5


def test_who_turns_otherwise_is_left_alone() -> None:
    normed: Any = phi(True, qk_layernorm=True)
    assert {type(layer.self_attn) for layer in normed.model.layers} == {PhiAttention}
    llama: Any = LlamaForCausalLM(LlamaConfig(**SHAPE))
    before = [type(module) for module in llama.modules()]
    use_turning_attention(llama)
    assert [type(module) for module in llama.modules()] == before

    class Own(PhiAttention):
        pass

    model: Any = phi(False)
    model.model.layers[0].self_attn.__class__ = Own
    use_turning_attention(model)
    assert [type(layer.self_attn) for layer in model.model.layers] == [Own, TurningAttention]


def test_weights_and_files_stay_as_they_are(tmp_path: Path) -> None:
    model, stock = phi(True), phi(False)
    expected = learned(stock, batch())
    learned(model, batch())  # angles are kept by now
    assert list(model.state_dict()) == list(stock.state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in stock.named_modules()]
    stock.load_state_dict(model.state_dict())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["architectures"] == ["PhiForCausalLM"]
    loaded: Any = PhiForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert {type(layer.self_attn) for layer in loaded.model.layers} == {PhiAttention}
    assert apart(learned(loaded.train(), batch()), expected) < 1e-5


def test_a_copy_has_angles_of_its_own() -> None:
    model: Any = phi(True)
    expected = learned(model, batch())
    twin: Any = copy.deepcopy(model)
    angles = {id(layer.self_attn.angles) for layer in twin.model.layers}
    assert len(angles) == 1 and not angles & {id(layer.self_attn.angles) for layer in model.model.layers}
    learned(twin, batch(seed=5))
    assert apart(learned(model, batch()), expected) < 1e-6
    assert apart(learned(twin, batch()), expected) < 1e-6
