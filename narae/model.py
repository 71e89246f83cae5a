"""The table of Phi sizes, and a model from it: new with random weights, or loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narae.log import Mistake, say


@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    heads: int
    batch_rows: int  # rows of 512 tokens in one step
    learning_rate: float
    warmup_steps: float  # below 1: a share of all steps


# A shape, and how to train it where the config says nothing else; parameters at the vocabulary in brackets. 1.3b is
# phi-1.5's shape. Learning rates from 125m on are those of the GPT-3 paper (table 2.1), and so are the batches, but for
# half of one at 125m: a lab's run is shorter. The small ones are measured (docs/decisions.md).
SIZES = {
    #             layers width heads  batch   rate  warm-up
    "tiny": Size(4, 256, 4, 4, 2.0e-3, 0.04),  #          5.3M  [4,096]
    "14m": Size(12, 256, 4, 8, 2.0e-3, 0.04),  #        13.7M  [8,192]
    "125m": Size(12, 768, 12, 512, 6.0e-4, 0.02),  #    135.4M [32,768]
    "350m": Size(24, 1024, 16, 1024, 3.0e-4, 0.02),  #  369.4M [32,768]
    "1.3b": Size(24, 2048, 32, 2048, 2.0e-4, 0.02),  # 1,342.8M [32,768]
}


def recipe(size: str, values: dict[str, Any] | None = None) -> Size:
    """How to train a size; a model of another shape (a config.json's values) as the nearest size that is not larger."""
    if size not in SIZES:
        raise Mistake(f"--size {size}: the sizes are {', '.join(SIZES)}")
    if values is None:
        return SIZES[size]
    layers = int(values.get("num_hidden_layers") or values.get("n_layer") or 12)
    width = int(values.get("hidden_size") or values.get("n_embd") or 768)
    inner = layers * width**2
    return next((one for one in reversed(SIZES.values()) if one.layers * one.width**2 <= inner), SIZES["tiny"])


def parameters(size: Size, vocabulary: int) -> int:
    """What PhiForCausalLM counts: untied embeddings, biases everywhere, one layer norm per block."""
    width = size.width
    block = 4 * (width * width + width) + (8 * width * width + 5 * width) + 2 * width
    return size.layers * block + 2 * vocabulary * width + vocabulary + 2 * width


def new_config(size: str, vocabulary: int, sequence_length: int) -> Any:
    from transformers import PhiConfig

    if size not in SIZES:
        raise Mistake(f"--size {size}: the sizes are {', '.join(SIZES)}")
    shape = SIZES[size]
    return PhiConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=sequence_length,
        hidden_act="gelu_pytorch_tanh",  # Phi's gelu_new, fused: the same function
        tie_word_embeddings=False,
    )


def read_json(path: Path) -> dict[str, Any]:
    """The config.json of any causal LM."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Mistake(f"--model_config {path}: a JSON file with a model_type is needed ({error})") from None
    return values


def from_values(values: dict[str, Any], vocabulary: int, sequence_length: int) -> Any:
    """A config.json's model, with the vocabulary and the context of the packed rows."""
    from transformers import AutoConfig

    own = {"vocab_size": vocabulary, "max_position_embeddings": sequence_length}
    kind = values["model_type"]
    try:
        return AutoConfig.for_model(
            kind, **{key: value for key, value in (values | own).items() if key != "model_type"}
        )
    except (ValueError, TypeError) as error:
        raise Mistake(f"--model_config: model_type {kind!r}: {str(error).splitlines()[0]}") from None


# What ends in the residual stream, as model families name it: Phi dense and fc2; Llama, Qwen, Mistral and Gemma o_proj
# and down_proj; GPT-NeoX, Falcon and BLOOM dense_4h_to_h; OPT out_proj and fc2; Mixtral w2; GPT-2 c_proj
TO_RESIDUAL = {"dense", "fc2", "o_proj", "down_proj", "dense_4h_to_h", "out_proj", "w2", "c_proj"}


def kind_of(config: Any) -> Any:
    """The class of a config's causal LM."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise Mistake(f"--model_config: transformers has no causal LM of model_type {config.model_type!r}")
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def new_model(config: Any, seed: int, scaled: bool = True) -> Any:
    """Random weights, the same for a seed on any number of ranks; `scaled` starts deep models as narrow as shallow."""
    from transformers import set_seed

    kind = kind_of(config)
    set_seed(seed)
    # from_config would initialise inside zero.Init under ZeRO-3; the class itself does not
    model = kind(config)
    if scaled:
        scale_by_depth(model)
    return model


def scale_by_depth(model: Any) -> None:
    """Each block adds twice to the residual stream: by 1 / sqrt(2 × layers), the sum does not grow with depth."""
    import torch

    layers, spread = model.config.num_hidden_layers, getattr(model.config, "initializer_range", 0.02)
    found = 0
    for name, weights in model.named_parameters():
        path = name.removesuffix(".weight").split(".")
        if weights.ndim < 2 or path[-1] not in TO_RESIDUAL or not any(part.isdigit() for part in path):
            continue
        found += 1
        # GPT-2 does so by itself: what does not have the config's spread stays
        if abs(float(weights.detach().float().std()) / spread - 1) < 0.2:
            with torch.no_grad():
                weights.mul_((2 * layers) ** -0.5)
    if not found:
        say(f"a {model.config.model_type} model has no projection of a known name: it starts as transformers starts it")


def generation_defaults(tokenizer: Any) -> Any:
    """How a pretrained model writes where nobody says otherwise."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=128,
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
        repetition_penalty=1.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
