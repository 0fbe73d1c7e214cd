"""The logistic law, which PyTorch has as a recipe of transforms alone."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from reparam._checks import check_alike, check_float, check_probability
from reparam._functions import wide_dtype
from reparam.noise import logistic_noise

__all__ = ["Logistic"]


class Logistic(Distribution):
    """The logistic law, of distribution function `sigmoid((z - loc) / scale)`.

    `z = loc + scale * L` with `L = log(U / (1 - U))`, so that `dz/dloc = 1` and
    `dz/dscale = (z - loc) / scale`. Its variance is `(pi * scale)² / 3`. Both tails are exponential
    ones and are computed as such, as far out as the dtype goes; the 16-bit types are computed in
    float32.

    Args:
        loc, scale: tensors that broadcast, or numbers; `scale` is positive.
        validate_args: whether to check parameters and values; torch's default if None.

    Raises:
        TypeError: if a parameter is a tensor without floating-point numbers.
        ValueError: if dtypes or devices differ, a parameter is NaN, or `scale` is not positive.

    Derived in chapter 5. Source: Balakrishnan (1992), Handbook of the Logistic Distribution,
    https://doi.org/10.1201/9781482277098.

    >>> q = Logistic(torch.zeros(2), 1.0)
    >>> q.rsample((3,)).shape
    torch.Size([3, 2])
    >>> q.log_prob(torch.tensor([0.0, 1000.0]))
    tensor([   -1.3863, -1000.0000])
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None
    ) -> None:
        given = {"loc": loc, "scale": scale}
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        if tensors:
            check_float(**tensors)
            check_alike(**tensors)
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Logistic, _instance)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        super(Logistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape=()) -> Tensor:
        loc, scale = self._wide()
        shape = self._extended_shape(sample_shape)
        noise = logistic_noise(shape, dtype=loc.dtype, device=loc.device)
        return torch.addcmul(loc, scale, noise).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        x, scale = self._standardized(value)
        log_prob = F.logsigmoid(x) + F.logsigmoid(-x) - scale.log()  # F' = F (1 - F) / scale
        return log_prob.to(torch.promote_types(value.dtype, self.loc.dtype))

    def cdf(self, value: Tensor) -> Tensor:
        cdf = self._standardized(value)[0].sigmoid()
        return cdf.to(torch.promote_types(value.dtype, self.loc.dtype))

    def icdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            check_probability(value)
        loc, scale = self._wide()
        z = loc + scale * torch.logit(value.to(torch.promote_types(value.dtype, loc.dtype)))
        return z.to(torch.promote_types(value.dtype, self.loc.dtype))

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.stddev.square()

    @property
    def stddev(self) -> Tensor:
        return self.scale * (math.pi / math.sqrt(3))

    def entropy(self) -> Tensor:
        return self.scale.log() + 2

    def _wide(self) -> tuple[Tensor, Tensor]:
        wide = wide_dtype(self.loc.dtype)
        return self.loc.to(wide), self.scale.to(wide)

    def _standardized(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`value` in units of `scale` from `loc`, and `scale`."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale = self._wide()
        wide = value.to(torch.promote_types(value.dtype, loc.dtype))
        return (wide - loc) / scale, scale
