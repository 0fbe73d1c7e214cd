"""Measure-valued gradients: differentiate the distribution into two that can be sampled."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Normal,
    OneHotCategorical,
    Poisson,
)
from torch.nn.functional import one_hot

from reparam._checks import any_true, check_flag
from reparam.estimators._contract import (
    Integrand,
    attach,
    beside,
    check_call,
    draw,
    innermost,
    name_of,
    parameters_of,
    refuse_forward_mode,
    values_of,
    widened,
)
from reparam.noise import exponential_noise


@dataclass(frozen=True)
class MeasureValued:
    """The weak derivative: `∂q/∂φ = c (q⁺ - q⁻)`, two distributions that take turns with `q`.

    The gradient estimate is the mean of `c [f(z⁺) - f(z⁻)]`: differences of `f`, so `f` may be any
    function, steps included, and its size does not matter, as it does for the score function. With
    `W` Rayleigh, `M` double-sided Maxwell, `N` normal and `E` exponential noise,

    =============  ================================================================================
    Normal         loc: `[f(μ + σW) - f(μ - σW)] / (σ √(2π))`; scale: `[f(μ + σM) - f(μ + σN)] / σ`
    Bernoulli      probs: `f(1) - f(0)`
    Categorical    probs: `f(k) - f(z)` for class `k`, z a draw of `q`. The negative part is free
                   to choose, as it is the same for each class and probabilities sum to one; also
                   OneHotCategorical
    Poisson        rate: `f(z + 1) - f(z)`
    Exponential    rate: `[f(z) - f(z + E/λ)] / λ`
    Gamma          rate: `[f(z) - f(z + E/β)] α/β`; the concentration is for `Pathwise`
    =============  ================================================================================

    Coupled, both parts share their noise as the table shows, and `N = M·U` with `U` uniform, drawn
    the other way round as `M = sign(N) √(N² + 2E)`. Uncoupled, the two parts are independent.

    Where `Independent` makes an event of D variables, they are replaced one at a time, the others
    keeping their draws from `q`.

    Needs: one of those distributions, alone or inside `Independent`.
    Bias: none.
    Cost: `num_samples` evaluations of `f` at draws of `q`, whose mean is the value; and for each
    of them and each of the D variables, 2 more for a Normal's loc, 1 for its scale, `K - 1` for
    a categorical one with `K` classes, 1 for the others, if that parameter wants a gradient. The
    draws of `q` and the replacements are two calls of `f`, the second without a graph.
    Higher derivatives: none; a second one raises.

    Args:
        coupled: whether the two parts share their noise. That lowers the variance for a Normal's
            loc where `f` is even around it, and for its scale and the other distributions where `f`
            is smooth. It raises that of the loc where `f` is monotone, as the parts lie on opposite
            sides, and doubles it for `f(z) = z`.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if there is no decomposition for the distribution or for a parameter that
            wants a gradient, or if `f` returns a wrong shape or NaN.
        NotImplementedError: if a second derivative is taken.

    Derived in chapter 7. Source: Mohamed et al. (2020), section 6 and its table of decompositions,
    https://arxiv.org/abs/1906.10652, after Pflug (1989), https://doi.org/10.1007/BF02243227.

    >>> import torch
    >>> from torch.distributions import Poisson
    >>> rate = torch.tensor(2.0, requires_grad=True)
    >>> MeasureValued()(lambda z: 3 * z, Poisson(rate)).backward()
    >>> rate.grad
    tensor(3.)
    """

    coupled: bool = True

    def __post_init__(self):
        check_flag("coupled", self.coupled)

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        refuse_forward_mode("MeasureValued")
        decompose = _decomposition(distribution)
        z = draw(distribution, num_samples)
        values = values_of(f, z, distribution)
        if not torch.is_grad_enabled():
            return values.mean(0)
        slopes = decompose(innermost(distribution), z, self.coupled)
        if not slopes:
            return values.mean(0)
        replacements = [points for slope in slopes for points in slope.replacements]
        with torch.no_grad():
            found = _values_replaced(f, z, replacements, distribution) if replacements else ()
        replaced = iter(found)  # none, of a variable with one class
        own = values.detach()
        estimate = values.mean(0)
        for slope in slopes:
            pairs = [(weight, next(replaced)) for weight in slope.weights]
            if slope.own_weight is not None:
                pairs.append((slope.own_weight, own))
            ndim = 1 + slope.source.ndim
            gradient = sum(weight * beside(value, ndim) for weight, value in pairs)
            estimate = attach("MeasureValued", estimate, slope.source, gradient.mean(0))
        return estimate


class _Slope(NamedTuple):
    """The derivative with respect to one parameter: weights of values of `f`.

    `source`, the parameter, has the shape `[*base.batch_shape, ...]`. There is a weight for each
    of `replacements`, samples of the innermost distribution, and one for the draws of `q`; each
    broadcasts to `[num_samples, *source.shape]`.
    """

    source: Tensor
    replacements: list[Tensor]
    weights: list[Tensor]
    own_weight: Tensor | None = None


def _decomposition(distribution: Distribution):
    base = innermost(distribution)
    for kinds, decompose in _DECOMPOSITIONS.items():
        if isinstance(base, kinds):
            return decompose
    raise ValueError(
        "MeasureValued knows the decompositions of Normal, Bernoulli, Categorical, "
        "OneHotCategorical, Poisson, Exponential and Gamma, alone or inside Independent, got "
        f"{name_of(distribution)}: use Pathwise if it has rsample, else ScoreFunction"
    )


def _normal(base: Normal, z: Tensor, coupled: bool) -> list[_Slope]:
    slopes = []
    parameters = parameters_of(base)
    loc, scale = (parameters[name].detach() for name in ("loc", "scale"))
    if parameters["loc"].requires_grad:
        up = _rayleigh(z)
        down = up if coupled else _rayleigh(z)
        weight = 1 / (scale * (2 * torch.pi) ** 0.5)
        parts = [loc + scale * up, loc - scale * down]
        slopes.append(_Slope(parameters["loc"], parts, [weight, -weight]))
    if parameters["scale"].requires_grad:
        normal = (z - loc) / scale if coupled else torch.randn_like(z)
        maxwell = (normal**2 + _rayleigh(z) ** 2).sqrt().copysign(normal)
        parts = [loc + scale * maxwell]
        slopes.append(_Slope(parameters["scale"], parts, [1 / scale], -1 / scale))
    return slopes


def _bernoulli(base: Bernoulli, z: Tensor, coupled: bool) -> list[_Slope]:
    if not base.probs.requires_grad:
        return []
    sign = 2 * z - 1
    return [_Slope(base.probs, [1 - z], [-sign], sign)]


def _categorical(base: Categorical | OneHotCategorical, z: Tensor, coupled: bool) -> list[_Slope]:
    if not base.probs.requires_grad:
        return []
    classes = base.probs.shape[-1]
    is_one_hot = isinstance(base, OneHotCategorical)
    drawn = z.argmax(-1) if is_one_hot else z
    others = [(drawn + step) % classes for step in range(1, classes)]
    weights = [one_hot(k, classes).to(base.probs) for k in others]
    own = one_hot(drawn, classes).to(base.probs) - 1
    if _may_be_impossible(base):
        probs = base.probs.detach().expand(*drawn.shape, classes)
        possible = [probs.gather(-1, k[..., None])[..., 0] > 0 for k in others]
        others = [torch.where(p, k, drawn) for p, k in zip(possible, others, strict=True)]
    points = [one_hot(k, classes).to(base.probs) for k in others] if is_one_hot else others
    return [_Slope(base.probs, points, weights, own)]


def _may_be_impossible(base: Categorical | OneHotCategorical) -> bool:
    """Whether the logits rule a class out, where `f` has no part in their gradient.

    Of probabilities it has one at 0 as well.
    """
    return "logits" in parameters_of(base) and any_true(base.probs == 0)


def _poisson(base: Poisson, z: Tensor, coupled: bool) -> list[_Slope]:
    if not base.rate.requires_grad:
        return []
    count = z if coupled else base.sample((len(z),))
    one = torch.ones_like(base.rate)
    return [_Slope(base.rate, [count + 1], [one], -one)]


def _gamma(base: Gamma | Exponential, z: Tensor, coupled: bool) -> list[_Slope]:
    """One exponential stage more makes a Gamma, or an exponential, variable the negative part."""
    for name, parameter in parameters_of(base).items():
        if name != "rate" and parameter.requires_grad:
            raise ValueError(
                f"MeasureValued has no decomposition for the {name} of {name_of(base)}, which "
                "wants a gradient: use Pathwise, or detach it"
            )
    if not base.rate.requires_grad:
        return []
    first = z if coupled else base.sample((len(z),))
    longer = first + _exponential(z) / base.rate.detach()
    weight = base.mean.detach()
    return [_Slope(base.rate, [longer], [-weight], weight)]


_DECOMPOSITIONS = {
    Normal: _normal,
    Bernoulli: _bernoulli,
    (Categorical, OneHotCategorical): _categorical,
    Poisson: _poisson,
    (Exponential, Gamma): _gamma,
}


def _exponential(like: Tensor) -> Tensor:
    return exponential_noise(like.shape, dtype=like.dtype, device=like.device)


def _rayleigh(like: Tensor) -> Tensor:
    return (2 * _exponential(like)).sqrt()


def _values_replaced(
    f: Integrand, z: Tensor, replacements: list[Tensor], distribution: Distribution
) -> Tensor:
    """Values of `f` where one variable of the event is replaced, the others are those of `z`.

    Returns:
        Shape `[replacements, num_samples, *base.batch_shape]`: for each variable, the value with
        that one replaced.
    """
    base, batch = innermost(distribution), distribution.batch_shape
    variables = base.batch_shape[len(batch) :].numel()
    each = (len(z), *batch, variables, *base.event_shape)
    place = len(batch)  # of the variables, among the dimensions behind the samples
    each_in_turn = z.detach().reshape(each).expand(len(replacements), variables, *each).clone()
    replaced = each_in_turn.diagonal(dim1=1, dim2=3 + place)  # puts the diagonal last
    replaced.copy_(torch.stack(replacements).reshape(-1, *each).movedim(2 + place, -1))
    values = values_of(f, each_in_turn.reshape(-1, *batch, *distribution.event_shape), distribution)
    values = values.reshape(len(replacements), variables, len(z), *batch).movedim(1, -1)
    return values.reshape(len(replacements), len(z), *base.batch_shape)
