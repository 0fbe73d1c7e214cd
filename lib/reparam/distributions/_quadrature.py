"""Integrals of a density beside a point, to all digits: what truncated and circular laws share."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Rule(NamedTuple):
    """A Gauss-Legendre rule on [0, 1], and the reach that its nodes suffice for.

    Column k of `weights` integrates what is given at the nodes times their k-th power. An integrand
    is taken for 0 where it is `folds` e-folds below its peak.
    """

    nodes: Tensor
    weights: Tensor
    folds: float

    @classmethod
    def of(cls, count: int, folds: float, dtype: torch.dtype) -> "Rule":
        nodes, weights = np.polynomial.legendre.leggauss(count)
        nodes, weights = torch.tensor((1 + nodes) / 2), torch.tensor(weights / 2)
        powers = nodes[:, None] ** torch.arange(3)
        return cls(nodes.to(dtype), (weights[:, None] * powers).to(dtype), folds)

    def on(self, device: torch.device) -> "Rule":
        return Rule(self.nodes.to(device), self.weights.to(device), self.folds)


#: For a few digits, which the first steps of an iteration need, and for all of a dtype.
COARSE = {dtype: Rule.of(20, 20.0, dtype) for dtype in (torch.float32, torch.float64)}
EXACT = {**COARSE, torch.float64: Rule.of(40, 40.0, torch.float64)}

_BLOCK = 1024  # samples whose integrands fit into a processor's cache


def in_blocks(function: Callable, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors that `function(*tensors)` returns, entry by entry, without much memory."""
    tensors = torch.broadcast_tensors(*tensors)
    blocks = zip(*(tensor.flatten().split(_BLOCK) for tensor in tensors), strict=True)
    results = zip(*(function(*block) for block in blocks), strict=True)
    return tuple(torch.cat(parts).view(tensors[0].shape) for parts in results)


def summed(density: Tensor, weights: Tensor) -> Tensor:
    """`density @ weights`, which autocast would compute in 16 bits."""
    device = density.device.type
    # torch.compile of torch 2.6 cannot look; what it compiles for knows autocast.
    if not (torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)):
        return density @ weights
    with torch.autocast(device, enabled=False):
        return density @ weights


def halley(error: Tensor, inverse_left: Tensor, inverse_right: Tensor, drift: Tensor) -> Tensor:
    """The step that Halley's method takes at an error of the log-odds of a point.

    With `A` and `B` the masses at its two sides, in units of the density at the point, the slope
    of the log-odds is `1/A + 1/B`. Its own slope follows from `A' = 1 + drift A` and
    `B' = -1 + drift B`, where `drift` is minus the slope of the log-density.
    """
    newton = error / (inverse_left + inverse_right)
    return -newton / (1 - newton * (inverse_right - inverse_left - drift) / 2).clamp(min=0.5)


def log_odds_of(u: Tensor) -> Tensor:
    """`log(u / (1 - u))`, next to 1/2 as well, where `torch.logit` of float32 keeps few digits."""
    is_middle = (u - 0.5).abs() < 0.25
    middle = 2 * torch.atanh(2 * torch.where(is_middle, u, 0.5) - 1)
    return torch.where(is_middle, middle, torch.logit(torch.where(is_middle, 0.25, u)))
