"""Estimators of `E[f(z)]` whose value and whose gradient are both right.

An estimator is a callable `estimator(f, distribution, num_samples=1)`. It hands `f` samples of
shape `[n, *batch_shape, *event_shape]`, wants values of shape `[n, *batch_shape]` back, and returns
a tensor of `batch_shape`: its value estimates `E[f(z)]`, and its gradient, with respect to the
distribution's parameters and to whatever else `f` depends on, is the one its name says. So

    estimator(f, q).sum().backward()

is all a user writes, and changing the estimator is changing one word.
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
