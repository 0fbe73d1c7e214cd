"""Mixtures whose samples have a path: PyTorch's have none."""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    Categorical,
    Cauchy,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
)

from reparam._checks import any_true, check_alike
from reparam.distributions.implicit import implicit_path, lacks_derivative, pull_back_of
from reparam.distributions.logistic import Logistic

__all__ = ["Mixture"]


class Mixture(MixtureSameFamily):
    """A `MixtureSameFamily` with `rsample`: gradients reach weights, locations and scales alike.

    A sample is drawn as ever, a component first, and gets its path from the distribution function:
    while `z` moves with the parameters φ, `F_φ(z) = Σ w_k F_k(z)` stays, so that
    `dz/dφ = -(dF_φ(z)/dφ) / p_φ(z)`. For a location, `dz/dloc_k = w_k p_k(z) / p(z)`. Where the
    events are vectors, of independent coordinates in each component, it is the distribution
    function of each coordinate given the earlier ones that stays, with the weights that these have
    left to the components. First and second derivatives are right, a third is not.

    For Normal, Laplace, Cauchy and Logistic components all of this is right far into both tails.
    Components of other families go by their `cdf`, and the slope in the weights has an error of
    `eps / p(z)`.

    Where modes lie far apart, nearly all of the slope in the weights is that of samples in the gap
    between them (moving weight from one mode to another moves samples all the way across), and
    nearly no sample falls there: the variance of a gradient in the weights has no bound as the
    modes part, and an average can look settled and miss it. The slopes in locations and scales
    have no such trouble. Vectors pay the same price at each coordinate that tells the modes apart.

    Args:
        mixture_distribution: `Categorical`, over K components.
        component_distribution: continuous variables of one dimension, with a differentiable `cdf`,
            of batch shape `[..., K]`; or vectors of them, `Independent(..., 1)`.
        validate_args: whether to check values; torch's default if None. Its check wants every
            component to allow a value: pass False where their supports differ.

    Raises:
        ValueError: if the distributions are of other kinds or do not fit each other; in `rsample`,
            if the components have no `cdf` that torch can differentiate, or the density at a sample
            is 0.

    Derived in chapter 5. Source: Graves (2016), https://arxiv.org/abs/1607.05690; Figurnov,
    Mohamed and Mnih (2018), https://arxiv.org/abs/1805.08498; the tails are our own.

    >>> loc = torch.tensor([-1.0, 1.0], requires_grad=True)
    >>> q = Mixture(Categorical(logits=torch.zeros(2)), Normal(loc, 0.5))
    >>> q.rsample((3,)).sum().backward()
    >>> round(loc.grad.sum().item(), 3)  # together they move every sample by as much
    3.0
    """

    has_rsample = True

    def __init__(
        self,
        mixture_distribution: Categorical,
        component_distribution: Distribution,
        validate_args: bool | None = None,
    ) -> None:
        _check_components(component_distribution)
        components = _unchecked(component_distribution)
        super().__init__(mixture_distribution, components, validate_args)
        parameters = {name: getattr(self._base, name) for name in self._base.arg_constraints}
        check_alike(weights=mixture_distribution.logits, **parameters)
        # torch leaves this to broadcasting, which then fails in `sample` and misleads `mean`.
        shape = torch.broadcast_shapes(mixture_distribution.batch_shape, self.batch_shape)
        self.__dict__.update(self.expand(shape).__dict__)

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(Mixture, _instance))

    def __repr__(self) -> str:
        return super().__repr__().replace("MixtureSameFamily", "Mixture", 1)

    def sample(self, sample_shape=()) -> Tensor:
        sample_shape = torch.Size(sample_shape)
        if 0 in sample_shape:  # which torch's Categorical refuses
            of_each = self.component_distribution.sample(sample_shape)
            return of_each.select(-1 - self._event_ndims, 0)
        return super().sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._is_narrow():
            return self._in_float32().log_prob(value.float()).to(value.dtype)
        if 0 in value.shape:  # which torch's Independent cannot reshape
            batch_shape = value.shape[: value.ndim - self._event_ndims]
            return value.new_empty(torch.broadcast_shapes(batch_shape, self.batch_shape))
        return super().log_prob(value)

    def rsample(self, sample_shape=()) -> Tensor:
        if self._is_narrow():
            return self._in_float32().rsample(sample_shape).to(self._dtype)
        sample = self.sample(sample_shape)
        z = sample if self._event_ndims else sample.unsqueeze(-1)  # [..., D]
        sign = self._nearer_tail(z)
        quantile, shares = self._quantile(z, sign)
        if sign is None and lacks_derivative(quantile):
            raise self._without_cdf()
        steps_for = self._steps_at(z, sign, quantile.detach(), shares.detach())
        path = implicit_path(z, quantile, lambda z: self._quantile(z, sign)[0], steps_for)
        return path if self._event_ndims else path.squeeze(-1)

    # --- details; z is [..., D], what belongs to a component [..., K, D] -------------------------

    @property
    def _base(self) -> Distribution:
        components = self.component_distribution
        return components.base_dist if self._event_ndims else components

    def _of_each(self, function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """A function of a component, for each of them at each coordinate."""
        return function(z.unsqueeze(-2)) if self._event_ndims else function(z).unsqueeze(-1)

    def _log_weights(self, z: Tensor) -> Tensor:
        """Of the components at each coordinate, given the earlier ones."""
        log_weights = self.mixture_distribution.logits.unsqueeze(-1)
        if z.shape[-1] == 1:
            return log_weights
        seen = self._of_each(self._base.log_prob, z)[..., :-1].cumsum(-1)
        return (log_weights + F.pad(seen, (1, 0))).log_softmax(-2)

    def _quantile(self, z: Tensor, sign: Tensor | None) -> tuple[Tensor, Tensor]:
        """What stays while `z` moves, `[..., D]`, and the share of each component in it.

        It is the logarithm of the mass below `z` (`sign` 1) or above it (-1), to which components
        contribute logarithms; or, without a sign, the mass below itself, of which they have parts.
        """
        log_weights = self._log_weights(z)
        if sign is None:
            shares = log_weights.exp() * self._of_each(self._cdf, z)
            return shares.sum(-2), shares
        q, log_cdf = self._base, _LOG_CDF[type(self._base)]
        masses = log_weights + log_cdf(
            sign.unsqueeze(-2) * self._of_each(lambda z: (z - q.loc) / q.scale, z)
        )
        return masses.logsumexp(-2), masses

    @torch.no_grad()
    def _nearer_tail(self, z: Tensor) -> Tensor | None:
        """1 below the median and -1 above it, where components are symmetric and known well."""
        if type(self._base) not in _LOG_CDF:
            return None
        log_cdf, _ = self._quantile(z, torch.ones_like(z))
        return torch.where(log_cdf > -math.log(2), -1.0, 1.0).to(z.dtype)

    @torch.no_grad()
    def _steps_at(
        self, z: Tensor, sign: Tensor | None, quantile: Tensor, shares: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """The inverse of the derivative of `_quantile` in `z`, a triangular matrix."""
        log_weights = self._log_weights(z)
        log_density = (log_weights + self._of_each(self._base.log_prob, z)).logsumexp(-2)
        slope = log_density.exp() if sign is None else sign * (log_density - quantile).exp()
        if any_true(~((slope != 0) & slope.isfinite())):
            raise ValueError(
                "the density of the mixture is 0 or infinite at one of its own samples, where "
                "rounding has put it on an edge of the support: use float64, or other parameters"
            )
        if z.shape[-1] == 1:
            return lambda rise: rise / slope
        points = z.unsqueeze(-2).expand_as(shares)
        score = pull_back_of(self._base.log_prob, points)(torch.ones_like(points))
        # What the weights at coordinate d do to its quantile, times what coordinate j < d does to
        # the weights.
        if sign is not None:
            shares = (shares - quantile.unsqueeze(-2)).exp()
        by_weight = shares - log_weights.exp() * shares.sum(-2, keepdim=True)
        jacobian = (by_weight.mT @ score).tril(-1) + torch.diag_embed(slope)
        return lambda rise: torch.linalg.solve_triangular(
            jacobian, rise.unsqueeze(-1), upper=False
        ).squeeze(-1)

    def _cdf(self, z: Tensor) -> Tensor:
        try:
            return self._base.cdf(z)
        except NotImplementedError:
            raise self._without_cdf() from None

    def _without_cdf(self) -> ValueError:
        return ValueError(
            "Mixture.rsample needs components with a cdf that torch can differentiate in the "
            f"parameters, and {type(self._base).__name__} has none: use ScoreFunction"
        )

    @property
    def _dtype(self) -> torch.dtype:
        return self.mixture_distribution.logits.dtype

    def _is_narrow(self) -> bool:
        return self._dtype.itemsize < 4

    def _in_float32(self) -> "Mixture":
        """The same mixture, for the arithmetic of the 16-bit types."""
        base = self._base
        wide = {name: getattr(base, name).float() for name in base.arg_constraints}
        try:
            components = type(base)(**wide, validate_args=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"a 16-bit Mixture computes in float32, and {type(base).__name__} cannot be made "
                f"anew from its parameters ({error}): give it float32 ones"
            ) from error
        if self._event_ndims:
            components = Independent(components, 1, validate_args=False)
        weights = Categorical(logits=self.mixture_distribution.logits.float(), validate_args=False)
        return Mixture(weights, components, validate_args=self._validate_args)


def _log_laplace_cdf(x: Tensor) -> Tensor:
    lower = x.clamp(max=0) - math.log(2)
    return torch.where(x < 0, lower, torch.log1p(-torch.exp(-x.clamp(min=0)) / 2))


def _log_cauchy_cdf(x: Tensor) -> Tensor:
    return torch.log(torch.atan2(torch.ones_like(x), -x) / math.pi)


# Of the symmetric families with location and scale: at (z - loc) / scale, right in the lower tail.
_LOG_CDF: dict[type[Distribution], Callable[[Tensor], Tensor]] = {
    Cauchy: _log_cauchy_cdf,
    Laplace: _log_laplace_cdf,
    Logistic: F.logsigmoid,
    Normal: torch.special.log_ndtr,
}


def _unchecked(distribution: Distribution) -> Distribution:
    """The same without validation: what one component gives need not be possible for another."""
    twin = copy.copy(distribution)
    twin._validate_args = False
    if hasattr(twin, "base_dist"):
        twin.base_dist = _unchecked(twin.base_dist)
    return twin


def _check_components(components: Distribution) -> None:
    """Continuous variables of one dimension each, alone or as vectors."""
    base, events = components, 0
    if isinstance(components, Independent):
        base, events = components.base_dist, components.reinterpreted_batch_ndims
    if not isinstance(base, Distribution) or base.event_shape or events > 1:
        raise ValueError(
            "Mixture needs components of one dimension each, such as Normal(loc, scale), or vectors"
            f" of them, Independent(Normal(loc, scale), 1), got {components}: for others there is "
            "torch.distributions.MixtureSameFamily, without rsample"
        )
    if base.support.is_discrete:
        raise ValueError(
            f"Mixture needs continuous components, whose samples can have a path, got {components}:"
            " use torch.distributions.MixtureSameFamily and ScoreFunction"
        )
