"""The table of Phi sizes, and a model from it: new with random weights, or loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narae.log import Mistake


@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    heads: int


# Parameters at the vocabulary in brackets. 1.3b is phi-1.5's shape.
SIZES = {
    "tiny": Size(layers=4, width=256, heads=4),  #          5.3M  [4,096]
    "125m": Size(layers=12, width=768, heads=12),  #      135.4M [32,768]
    "350m": Size(layers=24, width=1024, heads=16),  #     369.4M [32,768]
    "1.3b": Size(layers=24, width=2048, heads=32),  #   1,342.8M [32,768]
}


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


def new_model(config: Any, seed: int) -> Any:
    """Random weights, the same for a seed on any number of ranks."""
    from transformers import AutoModelForCausalLM, PhiConfig, PhiForCausalLM, set_seed

    set_seed(seed)
    # from_config would initialise inside zero.Init under ZeRO-3; the class itself does not
    return PhiForCausalLM(config) if isinstance(config, PhiConfig) else AutoModelForCausalLM.from_config(config)
