"""The table of sizes says what transformers counts."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PhiForCausalLM

from narae.log import Mistake
from narae.model import SIZES, from_values, new_config, new_model, parameters, read_json


@pytest.mark.parametrize(("size", "vocabulary"), [("tiny", 4096), ("125m", 32768), ("350m", 32768), ("1.3b", 32768)])
def test_parameter_counts(size: str, vocabulary: int) -> None:
    with torch.device("meta"):
        model = PhiForCausalLM(new_config(size, vocabulary, 512))
    assert sum(weights.numel() for weights in model.parameters()) == parameters(SIZES[size], vocabulary)


def test_the_largest_is_phi_1_5() -> None:
    shape = new_config("1.3b", 51200, 2048)
    assert (shape.num_hidden_layers, shape.hidden_size, shape.num_attention_heads) == (24, 2048, 32)
    assert parameters(SIZES["1.3b"], 51200) == 1_418_270_720  # microsoft/phi-1_5


def test_the_seed_decides_the_weights() -> None:
    shape = new_config("tiny", 256, 64)
    one, same, other = (new_model(shape, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_any_causal_lm(tmp_path: Path) -> None:
    file = tmp_path / "llama.json"
    values = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    file.write_text(json.dumps(values | {"intermediate_size": 64, "vocab_size": 7}))
    model = new_model(from_values(read_json(file), vocabulary=256, sequence_length=64), seed=1)
    assert isinstance(model, LlamaForCausalLM)
    assert model.lm_head.weight.shape == (256, 32)
    assert model.config.max_position_embeddings == 64


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model_type": "nonsense"}'])
def test_a_bad_model_config(content: str, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text(content)
    with pytest.raises(Mistake, match="--model_config"):
        from_values(read_json(file), 256, 64)


def test_an_unknown_size() -> None:
    with pytest.raises(Mistake, match=r"--size 7b: the sizes are tiny, 14m, 125m, 350m, 1.3b"):
        new_config("7b", 256, 64)


def scales(kind: str, **words: object) -> dict[str, float]:
    """What scaled initialisation multiplies, and by what; layer 0 stands for all."""
    values = {"model_type": kind, "hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 2}
    shape = from_values(values | {"intermediate_size": 64, "num_key_value_heads": 2} | words, 64, 16)
    plain, scaled = (dict(new_model(shape, 1, scaled=one).named_parameters()) for one in (False, True))
    return {
        name.split(".0.")[1]: float((weights / plain[name]).detach().mean())
        for name, weights in scaled.items()
        if ".0." in name and not torch.equal(weights, plain[name])
    }


def test_what_ends_in_the_residual_stream_starts_narrower() -> None:
    # 1 / sqrt(2 × 8 layers)
    assert scales("phi") == pytest.approx({"self_attn.dense.weight": 0.25, "mlp.fc2.weight": 0.25})
    assert scales("llama") == pytest.approx({"self_attn.o_proj.weight": 0.25, "mlp.down_proj.weight": 0.25})


def test_what_scales_itself_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert scales("gpt2", n_layer=8, n_embd=32, n_head=2, bos_token_id=0, eos_token_id=0) == {}
    assert not capsys.readouterr().err
    assert scales("rwkv", attention_hidden_size=32) == {}
    assert "a rwkv model has no projection of a known name" in capsys.readouterr().err


def test_what_is_no_causal_lm() -> None:
    with pytest.raises(Mistake, match="no causal LM of model_type 't5'"):
        new_model(from_values({"model_type": "t5"}, 64, 16), seed=1)
