"""Attention that trains short rows on a CPU, block of queries by block of queries.

torch's fused kernel goes backward there at a fraction of the rate of a matrix product. Here each block is four products
and a softmax over the keys that it may see, and what the softmax gave is kept: at 512 tokens in bf16 forward and
backward take less than half of the fused kernel's time. What is kept grows with the square of a row's length, so longer
rows, generation and GPUs go to torch's kernel.
"""

import itertools
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "blocks"
QUERIES = 128  # in a block
LONGEST = 1024  # tokens in a row


class Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """Each is rows × heads × tokens × width; mask is rows × 1 × tokens × tokens, true where a key is seen."""
        rows, heads, tokens, width = query.shape
        query, key, value = ((query * scale).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1))
        later = torch.full((QUERIES, QUERIES), -torch.inf, dtype=query.dtype).triu_(1)
        hidden = None if mask is None else torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        found, shares = torch.empty_like(query), []
        for begin, end in blocks(tokens):
            scores = torch.bmm(query[:, begin:end], key[:, :end].transpose(1, 2))
            if hidden is None:
                scores[:, :, begin:] += later[: end - begin, : end - begin]
            else:
                scores.view(rows, heads, end - begin, end).add_(hidden[:, :, begin:end, :end])
            share = torch.softmax(scores, dim=-1)
            torch.bmm(share, value[:, :end], out=found[:, begin:end])
            shares.append(share)
        ctx.save_for_backward(query, key, value, *shares)
        ctx.scale = scale
        return found.view(rows, heads, tokens, width)

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *shares = ctx.saved_tensors
        shape, given = outputs[0].shape, outputs[0].flatten(0, 1)
        of_query = torch.empty_like(query)
        of_key, of_value = torch.zeros_like(key, dtype=torch.float32), torch.zeros_like(value, dtype=torch.float32)
        for (begin, end), share in zip(blocks(shape[2]), shares, strict=True):
            part = given[:, begin:end]
            of_value[:, :end] += torch.bmm(share.transpose(1, 2), part)
            of_share = torch.bmm(part, value[:, :end].transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_share, share, -1, share.dtype)
            torch.bmm(of_scores, key[:, :end], out=of_query[:, begin:end])
            of_key[:, :end] += torch.bmm(of_scores.transpose(1, 2), query[:, begin:end])
        of_query *= ctx.scale
        found = (one.to(query.dtype).view(shape) for one in (of_query, of_key, of_value))
        return *found, None, None


def blocks(tokens: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise([*range(0, tokens, QUERIES), tokens]))


def known(mask: torch.Tensor, tokens: int) -> bool:
    """Whether each query sees itself, and none sees a later key: asked once for all layers, which share a mask."""
    found = vars(mask)
    if "known" not in found:
        square = mask.dtype == torch.bool and mask.shape[1:] == (1, tokens, tokens)
        found["known"] = square and bool(mask.diagonal(dim1=2, dim2=3).all()) and not bool(mask.triu(1).any())
    return bool(found["known"])


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **words: Any,
) -> tuple[torch.Tensor, None]:
    trains = torch.is_grad_enabled() and query.requires_grad and query.device.type == "cpu" and not dropout
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    whole = query.shape == key.shape == value.shape and query.shape[2] <= LONGEST and causal
    plain = not any(words.get(name) is not None for name in ("softcap", "position_bias", "s_aux"))
    plain = plain and not torch.compiler.is_compiling()
    if not (trains and whole and plain) or not (attention_mask is None or known(attention_mask, query.shape[2])):
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **words
        )
        return found
    if torch.is_autocast_enabled("cpu"):  # which casts for what it knows
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast("cpu", enabled=False):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen: torch.Tensor = Blocks.apply(query, key, value, attention_mask, scale)
        return seen.transpose(1, 2).contiguous(), None


def blocks_for(model: Any, device: torch.device) -> str | None:
    """This attention's name, which transformers knows from here on, for a model on a CPU that may choose."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    chooses = getattr(model, "_supports_attention_backend", False) and getattr(model, "_supports_sdpa", False)
    return NAME if device.type == "cpu" and chooses else None
