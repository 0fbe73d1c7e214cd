"""Estimators of `E[f(z)]` whose value and whose gradient are both right.

An estimator is a callable `estimator(f, distribution, num_samples=1)`. It hands `f` samples of
shape `[n, *batch_shape, *event_shape]`, wants values of shape `[n, *batch_shape]` back, and returns
a tensor of `batch_shape`: its value estimates `E[f(z)]`, and its gradient, with respect to the
distribution's parameters and to whatever else `f` depends on, is the one its name says. So ::

    estimator(f, q).sum().backward()

is all a user writes, and changing the estimator is changing one word.

Three limits of all of them:

- `f` leaves its samples as they are: `b - 0.45`, not `b -= 0.45`.
- Derivatives are those of reverse mode: `backward()`, `torch.autograd.grad`, `torch.func.grad`. In
  forward mode (`torch.func.jvp`, `jacfwd`) most raise; none is silently wrong.
- Probabilities lie between 0 and 1. Where `probs` is exactly 0 or 1, torch clamps it, and whatever
  passes through its `log_prob` or its logits has the derivative 0 there, not that of `E[f]`. That
  goes for `Enumeration` as well. Use `logits`, which may be minus infinity for a class that is
  ruled out; `MeasureValued` alone is right for `probs` of 0 and 1.
"""

from reparam.estimators.antithetic import ARM, DisARM
from reparam.estimators.control_variates import REBAR, RELAX
from reparam.estimators.enumeration import Enumeration, RaoBlackwell
from reparam.estimators.measure_valued import MeasureValued
from reparam.estimators.pathwise import Pathwise
from reparam.estimators.relaxations import GumbelRao, GumbelSoftmax, ReinMax, StraightThrough
from reparam.estimators.score import (
    NVIL,
    Constant,
    Learned,
    LeaveOneOut,
    MovingAverage,
    ScoreFunction,
    optimal_constant,
)
from reparam.estimators.spsa import SPSA

__all__ = [
    "ARM",
    "NVIL",
    "REBAR",
    "RELAX",
    "SPSA",
    "Constant",
    "DisARM",
    "Enumeration",
    "GumbelRao",
    "GumbelSoftmax",
    "Learned",
    "LeaveOneOut",
    "MeasureValued",
    "MovingAverage",
    "Pathwise",
    "RaoBlackwell",
    "ReinMax",
    "ScoreFunction",
    "StraightThrough",
    "optimal_constant",
]
