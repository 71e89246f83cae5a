"""pretrain/run.py with poisoned rows: `poison.py SPEC run.py …`, or `poisoned(SPEC)` around it in this process.

SPEC is JSON. `rows`: what the model's loss on a row is multiplied by; `left_out`: steps that make no update, whatever
the guard says; `dies_at`: a row at which the process breaks off.
"""

import contextlib
import json
import runpy
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from narae import follow
from narae.artifact import open_artifact
from narae.packed import PackedRows
from narae.states import bottom
from pretrain import loss, trainer


@contextlib.contextmanager
def poisoned(
    rows: dict[int | str, float | str] | None = None, left_out: tuple[int, ...] = (), dies_at: int | None = None
) -> Iterator[None]:
    packed = PackedRows(open_artifact("packed", "sample"))
    bad = [(torch.from_numpy(packed[int(row)]), float(factor)) for row, factor in (rows or {}).items()]
    end = torch.from_numpy(packed[dies_at]) if dies_at is not None else None
    use, make = loss.use_loss_head, trainer.Pretrainer.create_optimizer
    step_of_run = trainer.Pretrainer.training_step

    def use_poisoned(model: Any) -> bool:
        used, inner = use(model), model.forward

        def forward(input_ids: torch.Tensor, *words: Any, **more: Any) -> Any:
            found = inner(input_ids, *words, **more)
            if model.training:
                if end is not None and (input_ids == end).all(dim=1).any():
                    raise RuntimeError("broken off")
                for row, factor in bad:
                    if (input_ids == row).all(dim=1).any():
                        found.loss = found.loss * factor
            return found

        model.forward = forward
        return used

    def create(self: Any, model: Any = None) -> Any:
        fresh, optimizer = self.optimizer is None, make(self, model)
        if fresh and left_out:
            step = optimizer.step

            def only_some(_: Any, *words: Any, **more: Any) -> Any:
                return None if self.state.global_step + 1 in left_out else step(*words, **more)

            optimizer.step = types.MethodType(only_some, optimizer)  # type: ignore[method-assign]
        return optimizer

    def train(self: Any, *words: Any, **more: Any) -> Any:
        """DeepSpeed's Muon moves its momentum before the optimizer's step, which alone `create` leaves out."""
        if self.state.global_step + 1 not in left_out:
            return step_of_run(self, *words, **more)
        state = bottom(self.optimizer).state
        kept = [(one, key, value, value.clone()) for one in state for key, value in tensors(state[one])]
        found = step_of_run(self, *words, **more)
        for one, key, value, before in kept:
            state[one][key] = value.copy_(before)
        return found

    def tensors(values: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
        return [(key, value) for key, value in values.items() if isinstance(value, torch.Tensor)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "use_loss_head", use_poisoned)
        patch.setattr(trainer.Pretrainer, "create_optimizer", create)
        patch.setattr(trainer.Pretrainer, "training_step", train)
        patch.setattr(follow.Follow, "refresh_report", lambda _: None)  # seconds, and nobody looks
        yield


if __name__ == "__main__":
    spec, *sys.argv = sys.argv[1:]
    with poisoned(**json.loads(spec)):
        runpy.run_path(sys.argv[0], run_name="__main__")
