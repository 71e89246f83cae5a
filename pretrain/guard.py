"""What must not reach the weights: a step whose loss or gradient is not finite, or whose loss jumps.

The decision falls on the device, before the last micro-batch goes backward, from the loss of all ranks: where it is
bad that micro-batch's loss is multiplied by NaN. So every rank finds the same gradient that is not finite, and the
update is left out by what leaves one out anyway: DeepSpeed's check for overflow, and elsewhere `only_finite`. Weights,
moments and Adam's count of steps stay; the schedule and the step number go on. No rank waits for the decision.
"""

import math
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LEAST = 16  # losses: fewer say too little about how much they vary
# Of the mean: a spread below it is taken for so much. Six times as much is 6 percent, while the losses of single
# batches of a language model lie within 1 to 3 percent of their mean; a nearly constant loss must raise no alarm.
FLOOR = 0.01


@dataclass
class Verdict:
    """Why an update was left out, with what led to it. A figure that is not finite is None."""

    reason: str  # nan, infinity, spike, gradient
    loss: float | None
    grad_norm: float | None
    mean: float | None
    sigma: float | None


class Guard:
    """Judges steps by the losses of the last accepted ones. Ranks that see the same figures decide the same."""

    def __init__(self, max_skips: int = 3, sigmas: float = 6.0, window: int = 128):
        self.max_skips, self.sigmas = max_skips, sigmas
        self.losses: deque[float] = deque(maxlen=window)
        self.skipped = 0  # steps in a row until now

    def spread(self) -> tuple[float | None, float | None]:
        """Mean and standard deviation of the window, once a quarter of it is there. While the loss falls fast, early
        on, both are large and a spike passes: better than an alarm where there is none.
        """
        count = len(self.losses)
        if not self.sigmas or count < max(LEAST, (self.losses.maxlen or 0) // 4):
            return None, None
        mean = math.fsum(self.losses) / count
        sigma = math.sqrt(math.fsum((one - mean) ** 2 for one in self.losses) / count)
        return mean, max(sigma, FLOOR * abs(mean))

    def limit(self) -> float:
        """The highest loss that is no spike; exactly a number of fp32, so that a device and Python compare alike."""
        mean, sigma = self.spread()
        return math.inf if mean is None or sigma is None else float(np.float32(mean + self.sigmas * sigma))

    def factor(self, loss: torch.Tensor) -> torch.Tensor:
        """1, or NaN for a bad loss of a step, without waiting for the device."""
        return torch.where(torch.isfinite(loss) & (loss <= self.limit()), 1.0, math.nan)

    def judge(self, loss: float, grad_norm: float | None) -> Verdict | None:
        """The same on the host, afterwards. A norm that nobody can judge by is None."""
        mean, sigma = self.spread()
        norm_is_bad = grad_norm is not None and not math.isfinite(grad_norm)
        if math.isnan(loss):
            reason = "nan"
        elif math.isinf(loss):
            reason = "infinity"
        elif loss > self.limit():
            reason = "spike"
        elif norm_is_bad:
            reason = "gradient"
        else:
            self.losses.append(loss)
            self.skipped = 0
            return None
        self.skipped += 1
        found = loss if math.isfinite(loss) else None
        return Verdict(reason, found, None if norm_is_bad else grad_norm, mean, sigma)

    def state(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "skipped": self.skipped}

    def load(self, state: dict[str, Any]) -> None:
        self.losses.clear()
        self.losses.extend(state.get("losses", []))
        self.skipped = state.get("skipped", 0)


def only_finite(optimizer: torch.optim.Optimizer, norm: Callable[[torch.optim.Optimizer], Any]) -> None:
    """Where each rank holds whole gradients: a step is made by a gradient of finite norm only."""
    step = optimizer.step

    def guarded(self: torch.optim.Optimizer, *words: Any, **more: Any) -> Any:
        return step(*words, **more) if math.isfinite(float(norm(self))) else None

    optimizer.step = types.MethodType(guarded, optimizer)  # type: ignore[method-assign]


def clean_skips(zero: Any) -> None:
    """DeepSpeed's stages 1 to 3: what they leave out leaves no trace.

    Stages 1 and 2 look at gradients only where a config says so. Stage 3 looks at their norm when Muon's momentum has
    followed the gradients of those matrices that are finite.
    """
    if hasattr(zero, "check_grad_overflow"):
        zero.check_grad_overflow = True
    update = getattr(zero, "_apply_muon_to_accumulated_grads", None)
    if update is not None and getattr(zero, "use_muon", False):

        def only_of_finite() -> None:
            zero.check_overflow()
            if not zero.overflow:
                update()

        zero._apply_muon_to_accumulated_grads = only_of_finite
