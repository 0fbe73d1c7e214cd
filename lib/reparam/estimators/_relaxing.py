"""What relaxations and their control variates do with bits and with one-hot classes.

Either kind of variable is `harden(z)` for `z = noisy(logits)`, exactly; `soften(z, temperature)`
is its relaxation, `given(b, logits)` is `z` drawn anew given `b`, and `score(b, logits)` the
gradient of `log q(b)` with respect to the logits.
"""

import torch
from torch import Tensor
from torch.distributions import Distribution, OneHotCategorical

from reparam._checks import check_temperature
from reparam._functions import above_zero
from reparam.estimators._contract import discrete_logits
from reparam.relaxed import (
    _binary_softened,
    _gumbel_given,
    _logistic_given,
    _one_hot_of,
    _one_hot_softened,
    _with_gumbel_noise,
    _with_logistic_noise,
    gumbel_softmax,
    relaxed_bernoulli,
)


class Bits:
    """Bernoulli variables: logits, noise and samples have one shape."""

    sample = staticmethod(relaxed_bernoulli)
    noisy = staticmethod(_with_logistic_noise)
    soften = staticmethod(_binary_softened)
    given = staticmethod(_logistic_given)
    harden = staticmethod(above_zero)

    @staticmethod
    def score(b: Tensor, logits: Tensor) -> Tensor:
        sign = 2 * b - 1
        return sign * torch.sigmoid(-sign * logits)


class Classes:
    """OneHotCategorical variables: the last dimension holds the classes."""

    sample = staticmethod(gumbel_softmax)
    noisy = staticmethod(_with_gumbel_noise)
    soften = staticmethod(_one_hot_softened)
    given = staticmethod(_gumbel_given)
    harden = staticmethod(_one_hot_of)

    @staticmethod
    def score(b: Tensor, logits: Tensor) -> Tensor:
        return b - logits.softmax(-1)


def check_number(temperature: float) -> None:
    """A temperature that an estimator keeps: positive, and not a tensor."""
    if isinstance(temperature, Tensor):
        raise TypeError("temperature must be a number, got a tensor: use temperature.item()")
    check_temperature(temperature)


def relaxable(name: str, distribution: Distribution) -> tuple[Tensor, type[Bits] | type[Classes]]:
    """Logits of shape `[*batch_shape, *event_shape]` and what kind of variable they are of."""
    logits, kind = discrete_logits(name, distribution)
    return logits, Classes if kind is OneHotCategorical else Bits
