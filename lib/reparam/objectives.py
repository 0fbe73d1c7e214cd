"""Bounds on `log p(x)` for training, each with the gradient that its name says.

`elbo` averages the log weights `log w(z) = log p(x, z) - log q(z)` of its samples;
`importance_weighted_bound` takes the log of the average weight. Both return one bound for each
entry of the posterior's batch, so that

    (-elbo(log_joint, q)).mean().backward()

is all that training a model and its posterior together takes. `log_joint` maps samples
`[n, *batch_shape, *event_shape]` to `log p(x, z)` of shape `[n, *batch_shape]`. Whatever it depends
on, such as a decoder's weights, gets the ordinary gradient of the bound, whatever the posterior's.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from reparam._checks import any_true
from reparam._functions import Function
from reparam.estimators import NVIL, LeaveOneOut, ScoreFunction
from reparam.estimators._contract import (
    attach,
    beside,
    check_call,
    check_differentiable,
    check_finite,
    draw,
    finite_density,
    innermost,
    is_discrete,
    name_of,
    refuse_forward_mode,
    sampled,
    values_of,
)
from reparam.estimators.antithetic import _antithetic_bits, _both
from reparam.estimators.score import _support_moves

__all__ = ["elbo", "importance_weighted_bound"]

LogJoint = Callable[[Tensor], Tensor]

_PATHWISE = ("pathwise", "stl", "dreg")
_ELBO = ("pathwise", "stl", "score", "nvil")
_IMPORTANCE_WEIGHTED = ("pathwise", "stl", "dreg", "score", "nvil", "vimco", "disarm")


def elbo(
    log_joint: LogJoint,
    posterior: Distribution,
    num_samples: int = 1,
    gradient: str = "pathwise",
    baseline: Callable | None = None,
) -> Tensor:
    """The evidence lower bound `E_q[log p(x, z) - log q(z)]`, estimated from samples.

    The posterior's parameters get the gradient of that name, each without bias:

    - `"pathwise"`: the derivative of `log p(x, z) - log q(z)` along each sample's path and by the
      parameters of `log q` themselves. Needs `rsample`. Higher derivatives are right.
    - `"stl"`, sticking the landing: without the second part, the score, whose mean is zero. Its
      variance falls to zero as the posterior becomes exact, where every sample gives zero.
    - `"score"`: `(log w(z) - baseline) ∇ log q(z)`, for any posterior, discrete ones included. The
      baseline is one that `ScoreFunction` takes, or None.
    - `"nvil"`: the same, with the learned, centered and normalized baseline `NVIL(network).at(x)`.
      The normalization divides the gradient by the signal's running standard deviation where that
      exceeds 1: the direction is unbiased, the length is not.

    Any other estimator does its part as well, as in `DisARM()(log_weight, posterior)` with
    `log_weight = lambda z: log_joint(z) - posterior.log_prob(z)`. Where it asks for `f` between
    the outcomes, as `GumbelSoftmax`, `REBAR` and `RELAX` do, make the distributions of both terms
    with `validate_args=False`: torch refuses a log-density at a relaxed sample otherwise.

    Args:
        log_joint: maps samples `[n, *batch_shape, *event_shape]` to `[n, *batch_shape]`, in nats.
        posterior: a `torch.distributions.Distribution`.
        num_samples: independent samples to average; evaluations of `log_joint`.
        gradient: one of the names above.
        baseline: for `"score"` and `"nvil"`.

    Returns:
        One estimate for each entry of the posterior's `batch_shape`, in nats.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the name is unknown, if the posterior has no `rsample` where the gradient
            needs it, if `log_joint` returns a wrong shape or NaN, or has no graph to the sample
            where the gradient follows it, or if a baseline is missing or has nothing to do.

    Used in chapters 3 and 6. Sources: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114;
    `"stl"`: Roeder, Wu and Duvenaud (2017), https://arxiv.org/abs/1703.09194; `"nvil"`: Mnih and
    Gregor (2014), https://arxiv.org/abs/1402.0030.

    >>> from torch.distributions import Normal
    >>> prior, x = Normal(0.0, 1.0), torch.tensor(0.8)
    >>> mu = torch.tensor(0.4, requires_grad=True)
    >>> exact_posterior = Normal(mu, 0.5**0.5)  # of this x, where x ~ N(z, 1)
    >>> bound = elbo(
    ...     lambda z: prior.log_prob(z) + Normal(z, 1.0).log_prob(x),
    ...     exact_posterior,
    ...     gradient="stl",
    ... )
    >>> bound.backward()
    >>> round(bound.item(), 4), round(abs(mu.grad.item()), 4)  # log p(x), and no noise at all
    (-1.4255, 0.0)
    """
    _check("elbo", log_joint, posterior, num_samples, gradient, baseline, _ELBO)
    if gradient in _PATHWISE:
        return _log_weights(log_joint, posterior, num_samples, gradient).mean(0)
    return _by_score(log_joint, posterior, num_samples, 1, baseline)


def importance_weighted_bound(
    log_joint: LogJoint,
    posterior: Distribution,
    num_samples: int,
    gradient: str = "pathwise",
    baseline: Callable | None = None,
) -> Tensor:
    """The bound `E log (1/K Σ_k w(z_k))` with `w = p(x, z) / q(z)`, from K = `num_samples` samples.

    It never falls as K grows, and tends to `log p(x)`. With the bound's estimate `L`, and the
    normalized weights `v_k = w_k / Σ_j w_j`, the posterior's parameters get one of these gradients:

    - `"pathwise"`: the derivative of `L` along the paths and by the parameters of `log q`.
      Unbiased; its signal-to-noise ratio falls like `1/√K`, if the weights have enough moments.
      Higher derivatives are right.
    - `"stl"`: `Σ v_k` times the path derivative of `log w_k`. For K > 1 it is *biased*: there the
      part that is left out has a mean.
    - `"dreg"`, doubly reparameterized: `Σ v_k²` times the path derivative of `log w_k`. Unbiased;
      its signal-to-noise ratio grows like `√K`, if they have; it falls, too, where the posterior
      is too narrow for that (chapter 8 shows both).
    - `"score"`: `Σ (L - baseline - v_k + 1/K) ∇ log q(z_k)`, the baseline one that `ScoreFunction`
      takes, or None. Unbiased.
    - `"nvil"`: the same with `NVIL(network).at(x)`, and of the length that it gives (see `elbo`).
    - `"vimco"`: `Σ (L - L_k - v_k) ∇ log q(z_k)`, with `L_k` the bound where `w_k` is replaced by
      the geometric mean of the other weights. Unbiased.
    - `"disarm"`, for Bernoulli variables: K antithetic pairs, each with the difference that
      exchanging it makes to the bound, `2K` evaluations of `log_joint`; the value is the mean of
      the bounds of both halves. Unbiased.

    Args and returns: as for `elbo`.

    Raises:
        TypeError, ValueError: as `elbo` does; and if `"vimco"` gets one sample, or `"score"` the
            `LeaveOneOut` baseline, which `"vimco"` is the form of here.

    Used in chapters 7 and 8. Sources: Burda et al. (2016), https://arxiv.org/abs/1509.00519;
    `"dreg"`, and the bias of `"stl"`: Tucker et al. (2019), https://arxiv.org/abs/1810.04152;
    `"vimco"`: Mnih and Rezende (2016), https://arxiv.org/abs/1602.06725; `"disarm"`: Dong et al.
    (2020), section 4, https://arxiv.org/abs/2006.10680; the ratios: Rainforth et al. (2018),
    https://arxiv.org/abs/1802.04537.

    >>> from torch.distributions import Normal
    >>> prior, x = Normal(0.0, 1.0), torch.tensor(1.0)
    >>> _ = torch.manual_seed(0)
    >>> bounds = [
    ...     importance_weighted_bound(
    ...         lambda z: prior.log_prob(z) + Normal(z, 1.0).log_prob(x),
    ...         prior.expand((20_000,)),
    ...         num_samples,
    ...     ).mean()
    ...     for num_samples in (1, 4, 16)
    ... ]
    >>> [round(bound.item(), 1) for bound in bounds]  # log p(x) is -1.5155
    [-1.9, -1.6, -1.5]
    """
    kinds = _IMPORTANCE_WEIGHTED
    _check(
        "importance_weighted_bound", log_joint, posterior, num_samples, gradient, baseline, kinds
    )
    if gradient in _PATHWISE:
        bound = _bound(_log_weights(log_joint, posterior, num_samples, gradient))
        if bound.requires_grad:
            check_finite(f"gradient={gradient!r}", bound)
        return bound
    if gradient == "vimco":
        return _vimco(log_joint, posterior, num_samples)
    if gradient == "disarm":
        return _disarm(log_joint, posterior, num_samples)
    return _by_score(log_joint, posterior, 1, num_samples, baseline)


def _check(
    name: str,
    log_joint: LogJoint,
    posterior: Distribution,
    num_samples: int,
    gradient: str,
    baseline: Callable | None,
    kinds: tuple[str, ...],
) -> None:
    if not callable(log_joint):
        raise TypeError(f"log_joint must be a function of z, got {type(log_joint).__name__}")
    check_call(log_joint, posterior, num_samples)
    if gradient not in kinds:
        known = ", ".join(map(repr, kinds))
        raise ValueError(f"{name} knows the gradients {known}, got {gradient!r}")
    if gradient != "pathwise":
        refuse_forward_mode(f"gradient={gradient!r}")
    if gradient in _PATHWISE and posterior.has_rsample and is_discrete(posterior):
        raise ValueError(
            f"gradient={gradient!r} needs samples that have a path, and those of "
            f"{name_of(posterior)} are discrete: use {_instead(kinds)}"
        )
    if gradient in _PATHWISE and not posterior.has_rsample:
        raise ValueError(
            f"gradient={gradient!r} needs a posterior with rsample, and {name_of(posterior)} has "
            f"none: use {_instead(kinds)}"
        )
    if gradient != "pathwise" and _support_moves(posterior):
        raise ValueError(
            f"gradient={gradient!r} can be biased where the support moves with the parameters, as "
            f"that of {name_of(posterior)} does: use gradient='pathwise'"
        )
    if gradient == "nvil" and _nvil(baseline) is None:
        raise ValueError(f"gradient='nvil' needs baseline=NVIL(network).at(x), got {baseline!r}")
    if gradient not in ("score", "nvil") and baseline is not None:
        raise ValueError(f"gradient={gradient!r} has no use for a baseline: use gradient='score'")
    if gradient == "vimco" and num_samples < 2:
        raise ValueError(
            "gradient='vimco' needs num_samples of at least 2, as it compares each sample with the "
            "others, got 1: use gradient='score' with MovingAverage()"
        )
    if "vimco" in kinds and isinstance(baseline, LeaveOneOut):
        raise ValueError(
            "LeaveOneOut has one value of this bound, which all samples share, and nothing to "
            "leave out: use gradient='vimco', which leaves out one sample of the bound"
        )


def _nvil(baseline: Callable | None) -> NVIL | None:
    """The NVIL that a baseline is made from, if it is."""
    learned = getattr(baseline, "learned", None)
    return learned if isinstance(learned, NVIL) else None


def _instead(kinds: tuple[str, ...]) -> str:
    return " or ".join(f"gradient={kind!r}" for kind in kinds if kind in ("score", "vimco"))


def _bound(log_weights: Tensor, dim: int = 0) -> Tensor:
    """The log of the average weight."""
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])


# --- gradients along the path of a sample --------------------------------------------------------


def _log_weights(
    log_joint: LogJoint, posterior: Distribution, num_samples: int, gradient: str
) -> Tensor:
    """`log w(z_k)`, shape `[num_samples, *batch_shape]`, with the graph that the gradient wants."""
    z = posterior.rsample((num_samples,))
    if gradient == "dreg":
        z = _Weighted.call(z, lambda: log_w.detach().softmax(0))
    log_p = values_of(log_joint, z, posterior, "log_joint")
    name, instead = f"gradient={gradient!r}", "gradient='score'"
    check_differentiable(name, log_p, z, instead, "log_joint")
    log_w = log_p - finite_density(posterior.log_prob(z), posterior)
    if gradient != "pathwise":  # take off the part that does not go through the sample
        score = posterior.log_prob(z.detach())
        log_w = attach(name, log_w, score, torch.ones_like(score))
    return log_w


class _Weighted(Function):
    """The identity; the gradient of each sample is multiplied by its weight.

    The weights are known later than the samples: `weights()` is asked when a gradient comes back.
    """

    @staticmethod
    def forward(z, weights):
        return z.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.weights = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        weight = ctx.weights()
        return gradient * beside(weight, gradient.ndim), None


# --- gradients by the score ----------------------------------------------------------------------


class _Together(Distribution):
    """`count` independent samples as one: `[n, count, *batch_shape, *event_shape]`.

    The last `log q` of each of them is kept, so that the bound and its score share it.
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, each: Distribution, count: int) -> None:
        self.each, self.count, self.last = each, count, (None, None)
        super().__init__(each.batch_shape, each.event_shape, validate_args=False)

    @property
    def support(self):
        return self.each.support

    def sample(self, sample_shape=()):
        return sampled(self.each, (*sample_shape, self.count))

    def log_prob_of_each(self, z: Tensor) -> Tensor:
        if self.last[0] is not z:
            self.last = z, finite_density(self.each.log_prob(z), self.each)
        return self.last[1]

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_of_each(z).sum(1)


def _by_score(
    log_joint: LogJoint,
    posterior: Distribution,
    num_samples: int,
    count: int,
    baseline: Callable | None,
) -> Tensor:
    """The mean of `num_samples` bounds, each from `count` samples."""
    together = _Together(posterior, count)
    nvil = _nvil(baseline)
    scale = 1.0 if nvil is None else nvil.scale()

    def bound(z: Tensor) -> Tensor:
        log_p = values_of(log_joint, z.flatten(0, 1), posterior, "log_joint")
        log_q = together.log_prob_of_each(z)
        log_w = log_p.unflatten(0, z.shape[:2]) - log_q.detach()
        # As the score has mean zero, 1/K of it centers the weights, and is all of them at K = 1.
        score = (1 / count - log_w.detach().softmax(1)) / scale
        return _with_score("gradient='score'", _bound(log_w, 1), log_q, score, dim=1)

    return ScoreFunction(baseline)(bound, together, num_samples)


def _vimco(log_joint: LogJoint, posterior: Distribution, num_samples: int) -> Tensor:
    z = draw(posterior, num_samples)
    log_q = finite_density(posterior.log_prob(z), posterior)
    log_w = values_of(log_joint, z, posterior, "log_joint") - log_q.detach()
    bound, constant = _bound(log_w), log_w.detach()
    others = (constant.sum(0) - constant) / (num_samples - 1)
    score = bound.detach() - _bounds_with(constant, others) - constant.softmax(0)
    return _with_score("gradient='vimco'", bound, log_q, score)


def _disarm(log_joint: LogJoint, posterior: Distribution, num_samples: int) -> Tensor:
    name = "gradient='disarm'"
    if not isinstance(innermost(posterior), Bernoulli):
        raise ValueError(
            f"{name} needs Bernoulli variables, alone or inside Independent, got "
            f"{name_of(posterior)}: use gradient='vimco'"
        )
    logits = innermost(posterior).logits
    _, *pair = _antithetic_bits(logits, num_samples)
    z = torch.cat(pair)
    log_q = posterior.log_prob(z)
    log_w = values_of(log_joint, z, posterior, "log_joint") - log_q.detach()
    bound = (_bound(log_w[:num_samples]) + _bound(log_w[num_samples:])) / 2

    one, other = log_w.detach().chunk(2)
    gain = _bound(one) - _bounds_with(one, other) + _bounds_with(other, one) - _bound(other)
    gain = beside(gain, 1 + logits.ndim)
    gradient = (gain / 2 * (pair[0] - pair[1])).sum(0) * _both(logits.detach())
    score = -torch.cat([one.softmax(0), other.softmax(0)]) / 2
    return attach(name, _with_score(name, bound, log_q, score), logits, gradient)


def _bounds_with(log_weights: Tensor, instead: Tensor) -> Tensor:
    """For each k, the bound in which `instead[k]` stands for the k-th log weight."""
    none = torch.full_like(log_weights[:1], -math.inf)
    before = torch.cat([none, log_weights.logcumsumexp(0)[:-1]])
    after = torch.cat([log_weights.flip(0).logcumsumexp(0).flip(0)[1:], none])
    rest = torch.logaddexp(before, after)
    return torch.logaddexp(rest, instead) - math.log(len(log_weights))


def _with_score(name: str, bound: Tensor, log_q: Tensor, score: Tensor, dim: int = 0) -> Tensor:
    """The bound, plus `score` as the coefficients of `∇ log q` of its samples along `dim`."""
    if any_true(~(bound.detach().sum() + score.sum()).isfinite()):
        raise ValueError(
            f"{name} has an infinite signal: log_joint is infinite at a sample, where the "
            "posterior reaches and the model does not; give it a finite floor there"
        )
    return attach(name, bound, log_q.movedim(dim, -1), score.movedim(dim, -1))
