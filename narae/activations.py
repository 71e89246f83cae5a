"""The memory that a transformer's forward and backward pass takes, found without taking it.

The blocks run on tensors that have shapes but no data, and every storage is followed from its birth to its death. One
block and two, one row and two tell what each block and each row adds: the rest is arithmetic.
"""

import functools
import json
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Bytes of the storages that were born inside and live: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._born(tensor.untyped_storage())
        return found

    def know(self, tensor: torch.Tensor) -> None:
        """What was there before does not count."""
        self._known.add(tensor.untyped_storage()._cdata)

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Activations:
    kept: float  # bytes between forward and backward
    most: float  # bytes at the worst moment of both; gradients of parameters are not among them


def activations(
    config: Any, rows: int, length: int, way: str = "bf16", checkpointing: bool = False, mask: bool = True
) -> Activations:
    """Of all blocks, for a micro-batch of these rows. way: bf16 and fp32 are the type of everything, autocast computes
    in bf16 with fp32 weights. mask: documents are kept apart, which takes a mask per block."""
    layers = config.num_hidden_layers
    kind: Any = type(config)
    run = functools.partial(_run, json.dumps(config.to_dict(), sort_keys=True, default=str), kind, length)
    runs = {(one, two): run(way, checkpointing, mask, one, two) for one in (1, 2) for two in (1, 2)}

    def at(name: str) -> float:
        # a + b blocks + c rows + d blocks rows, through four points
        first, block, row, both = (getattr(runs[key], name) for key in ((1, 1), (2, 1), (1, 2), (2, 2)))
        crossed = both - block - row + first
        return float(
            first + (layers - 1) * (block - first) + (rows - 1) * (row - first) + (layers - 1) * (rows - 1) * crossed
        )

    return Activations(at("kept"), at("most"))


@functools.lru_cache(maxsize=64)
def _run(
    values: str, kind: Any, length: int, way: str, checkpointing: bool, mask: bool, layers: int, rows: int
) -> Activations:
    import warnings

    from transformers import AttentionInterface, AttentionMaskInterface, AutoModel
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # transformers makes a mask for whatever has no data; without documents to keep apart a run has none
    AttentionInterface.register("unmasked", sdpa_attention_forward)
    AttentionMaskInterface.register("unmasked", lambda *_, **__: None)
    # Embeddings are small here: what their gradients take is counted with the other gradients
    small: dict[str, Any] = {"num_hidden_layers": layers, "vocab_size": 64, "max_position_embeddings": length}
    small |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    config = kind.from_dict(json.loads(values) | small)
    config._attn_implementation = "sdpa" if mask else "unmasked"
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        dtype = torch.bfloat16 if way == "bf16" else torch.float32
        model = AutoModel.from_config(config, dtype=dtype).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        words = {"input_ids": torch.zeros(rows, length, dtype=torch.long)}
        if mask:
            words["attention_mask"] = torch.zeros(rows, 1, length, length, dtype=torch.bool)
        meter = Meter()
        for one in [*model.parameters(), *model.buffers(), *words.values()]:
            meter.know(one)
        for one in model.parameters():
            one.register_post_accumulate_grad_hook(_forget)
        with meter:
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
                last = model(**words, use_cache=False).last_hidden_state
            kept = meter.now
            last.backward(torch.empty_like(last))
    return Activations(kept, meter.most)


def _forget(weights: torch.Tensor) -> None:
    weights.grad = None
