"""Phi's attention with its rotation in three operations.

transformers cuts queries and keys in two, turns one part by two products, a negation and a concatenation, and joins the
parts again; all of it once more backward, in runs of some sixteen elements. Here the whole of a head is turned: a
product with a matrix of zeros and ones swaps the halves that belong together, where nothing turns the cosine is 1 and
the sine 0, and backward is a turn the other way.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi.modeling_phi import PhiAttention, eager_attention_forward


class Turn(torch.autograd.Function):
    """rows × tokens × heads × width. The result lies in memory head by head, as attention reads it."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, swap: torch.Tensor) -> Any:
        ctx.angles, ctx.swap = (cos, sin), swap
        rows, tokens, heads, width = states.shape
        found = torch.empty((rows, heads, tokens, width), dtype=states.dtype, device=states.device).transpose(1, 2)
        return torch.mul(states, cos, out=found).addcmul_(states @ swap, sin)

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.angles
        given = outputs[0].contiguous()
        return torch.mul(given, cos).addcmul_(given @ ctx.swap, sin, value=-1), None, None, None


class Angles:
    """Cosines and sines of a forward pass, as wide as a head: made once for all layers."""

    def __init__(self) -> None:
        self.source: torch.Tensor | None = None
        self.found: tuple[torch.Tensor, ...] = ()

    def of(self, cos: torch.Tensor, sin: torch.Tensor, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        if self.source is not cos or self.found[0].dtype != dtype:
            turning = cos.shape[-1]
            half, rest = turning // 2, width - turning
            swap = torch.zeros(width, width, dtype=dtype, device=cos.device)
            swap[range(half), range(half, turning)] = 1
            swap[range(half, turning), range(half)] = -1
            wide = F.pad(cos, (0, rest), value=1.0), F.pad(sin, (0, rest))
            self.source, self.found = cos, (*(one.unsqueeze(2).to(dtype) for one in wide), swap)
        return self.found


class TurningAttention(PhiAttention):
    angles: Angles

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Any = None,
        **words: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if past_key_values is not None or torch.compiler.is_compiling():
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **words)
        rows, tokens = hidden_states.shape[:-1]
        queries, keys, values = (
            project(hidden_states).view(rows, tokens, -1, self.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        angles = self.angles.of(*position_embeddings, self.head_dim, queries.dtype)
        queries, keys = Turn.apply(queries, *angles), Turn.apply(keys, *angles)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        states = (one.transpose(1, 2) for one in (queries, keys, values))
        found, shares = attend(self, *states, attention_mask, dropout=dropout, scaling=self.scaling, **words)
        return self.dense(found.reshape(rows, tokens, -1)), shares


def use_turning_attention(model: nn.Module) -> None:
    """In place of Phi's own, where that is what the model has."""
    angles = Angles()
    for module in model.modules():
        if type(module) is PhiAttention and not module.qk_layernorm:
            module.__class__ = TurningAttention
            cast("TurningAttention", module).angles = angles
