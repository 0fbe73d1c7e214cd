"""The score function estimator, and baselines that make it quieter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, TransformedDistribution, constraints

from reparam._checks import any_true, check_count, is_infinite
from reparam.estimators._contract import (
    Integrand,
    also_train,
    attach,
    check_call,
    draw,
    innermost,
    log_ratio,
    name_of,
    parameters_of,
    rebuilt,
    refuse_class,
    refuse_forward_mode,
    support_of,
    values_of,
    widened,
)
from reparam.estimators.enumeration import support_points

Baseline = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ScoreFunction:
    """REINFORCE, the likelihood-ratio estimator: differentiate the density, not `f`.

    The gradient estimate is the mean of `(f(z_k) - b_k) ∇_φ log q_φ(z_k) + ∇_φ f(z_k)`, with
    `b_k = 0` unless there is a baseline; the second term is for parameters that `f` uses itself.
    Written with the factor `exp(log q - stop_gradient(log q))`, which is 1 and has the score as
    its derivative (DiCE): a baseline never moves the value.

    Needs: `log_prob`, and a density that is absolutely continuous in the parameters, which a
    support with a hard edge that moves with them breaks; `f` may be any function, also of
    discrete `z`.
    Bias: none under those conditions, with any baseline that does not know its own sample: all of
    this module, except that `NVIL` scales the gradient of the distribution's parameters.
    Cost: `num_samples` evaluations of `f`. Its variance depends on the size of `f`, not only on
    its slope (chapter 3), which is what a baseline changes.
    Higher derivatives: right, with a baseline too (it then is a control variate of each of them:
    Mao et al. 2019); `NVIL` refuses them.

    Args:
        baseline: `Constant`, `MovingAverage`, `LeaveOneOut`, `Learned(…).at(x)`, `NVIL(…).at(x)`,
            or any callable that maps the values of `f`, `[n, *batch_shape]` and without a graph,
            to something that broadcasts to that shape; `b_k` must not depend on the k-th value.
            One with state is an `nn.Module`, which keeps it; the estimator itself is a value.
        f, distribution, num_samples: as for every estimator (see `Pathwise`).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `f` returns a wrong shape or NaN, if a baseline does not fit, or if the
            support of the distribution moves with its parameters.

    Derived in chapter 1, the baselines in chapter 7. Source: Williams (1992),
    https://doi.org/10.1007/BF00992696; the form used here: Foerster et al. (2018),
    https://arxiv.org/abs/1802.05098, and Mao et al. (2019),
    https://proceedings.mlr.press/v97/mao19a.html.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> theta = torch.tensor(0.3, requires_grad=True)
    >>> _ = torch.manual_seed(0)
    >>> ScoreFunction()(lambda b: b, Bernoulli(theta), num_samples=100_000).backward()
    >>> bool((theta.grad - 1).abs() < 0.05)
    True
    """

    baseline: Baseline | None = None

    def __post_init__(self) -> None:
        if isinstance(self.baseline, Learned):
            name = type(self.baseline).__name__
            raise TypeError(
                f"{name} needs the inputs it predicts from: pass baseline={name.lower()}.at(x), "
                "made anew for each batch x"
            )
        refuse_class("baseline", self.baseline, "a baseline")
        if self.baseline is not None and not callable(self.baseline):
            raise TypeError(
                "baseline must be a baseline such as MovingAverage() or a function of the values, "
                f"got {type(self.baseline).__name__}: for a number use Constant({self.baseline!r})"
            )

    @widened
    def __call__(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        if _support_moves(distribution):
            raise ValueError(
                "ScoreFunction can be biased where the support moves with the parameters, as "
                f"that of {name_of(distribution)} does: use Pathwise"
            )
        z = draw(distribution, num_samples)
        ratio = log_ratio(distribution, z)
        finite_for = "ScoreFunction" if ratio.requires_grad else None
        values = values_of(f, z, distribution, finite_for=finite_for)
        if self.baseline is None:
            return (values * ratio.exp()).mean(0)
        refuse_forward_mode("ScoreFunction with a baseline")
        if not ratio.requires_grad:  # nothing that a baseline could change
            return values.mean(0)
        b = self.baseline(values.detach())
        _check_fits(b, values)
        if isinstance(self.baseline, _At):
            return self.baseline.estimate(values, b, ratio)
        return _estimate(values, b, ratio)


def _estimate(values: Tensor, b: Tensor, ratio: Tensor) -> Tensor:
    """The mean of `values`, whose gradient has the baseline `b`.

    That is the mean of `b + (values - b) exp(ratio)`, at a ratio of 0: of the values as they are.
    """
    dtype = torch.promote_types(values.dtype, ratio.dtype)
    weight = ratio.exp().to(dtype)
    return torch.lerp(b.detach().to(weight), values.to(dtype), weight).mean(0)


def _check_fits(b: Tensor, values: Tensor) -> None:
    if not isinstance(b, Tensor):
        raise TypeError(f"a baseline must return a tensor, got {type(b).__name__}")
    shape, wanted = tuple(b.shape), tuple(values.shape)
    # By index: torch.compile of torch 2.6 loses its way with a zip.
    if len(shape) > len(wanted) or any(
        shape[-i] not in (1, wanted[-i]) for i in range(1, len(shape) + 1)
    ):
        raise ValueError(
            f"a baseline must fit the values of f, {wanted} or its last dimensions, got {shape}"
        )
    if is_infinite(b):
        raise ValueError(
            "a baseline must be finite, got NaN or infinity: look at its network, or for an "
            f"overflow of {b.dtype}"
        )


def _support_moves(distribution: Distribution) -> bool:
    """Whether a bound of the support is a function of parameters that want a gradient."""
    bounds = _bounds(support_of(distribution))
    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds):
        return True
    base = innermost(distribution)
    # torch says of a transformed distribution only where its last transform may lead.
    is_plain = getattr(type(base), "support", None) is TransformedDistribution.support
    return is_plain and _edges_move(base)


def _bounds(support: constraints.Constraint) -> list[float | Tensor]:
    """The ends of an interval, as far as there are any."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    ends = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return [end for end in ends if end is not None]


def _edges_move(distribution: TransformedDistribution) -> bool:
    """Whether an edge of the base's support has a slope in some parameter, where it is led to."""
    base = distribution.base_dist
    if _support_moves(base):
        return True
    sources = [p for p in _tensors_in(distribution.transforms) if p.requires_grad]
    with torch.enable_grad():
        edges = [
            e if isinstance(e, Tensor) else torch.tensor(float(e)) for e in _bounds(base.support)
        ]
        for transform in distribution.transforms if edges else ():
            if transform.domain.event_dim:  # mixes variables: no interval any more
                return bool(sources)
            if _bounds(transform.domain) and not _bounds(transform.codomain):
                edges = []  # a bounded domain led to the whole line: its ends go to infinity
            edges = [edge for edge in map(transform, edges) if edge.isfinite().all()]
        return any(_has_slope(edge, sources) for edge in edges if edge.requires_grad)


def _has_slope(edge: Tensor, sources: list[Tensor]) -> bool:
    """True as well if it depends on something that is not among the sources."""
    slopes = torch.autograd.grad(edge.sum(), sources, allow_unused=True) if sources else [None]
    known = [slope for slope in slopes if slope is not None]
    return not known or any(any_true(slope != 0) for slope in known)


def _tensors_in(transforms: Sequence[Transform]) -> list[Tensor]:
    """The tensors that transforms, or the transforms inside of them, are made from."""
    todo, seen = list(transforms), []
    for part in todo:  # which grows on the way
        if not any(part is other for other in seen):  # a transform knows its inverse
            seen.append(part)
            if isinstance(part, Transform):
                for value in vars(part).values():
                    todo.extend(value if isinstance(value, list | tuple) else [value])
    return [part for part in seen if isinstance(part, Tensor)]


# --- baselines without parameters ----------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """The same baseline for every sample; `optimal_constant` computes the best one.

    Args:
        value: a number, or a tensor that broadcasts to `batch_shape`; taken without its graph.

    Raises:
        TypeError: if `value` is neither.

    Derived in chapter 7. Source: Williams (1992), https://doi.org/10.1007/BF00992696.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.tensor(2.0, requires_grad=True)
    >>> best = Constant(1 - 2.0 / 2.0)
    >>> ScoreFunction(best)(lambda b: b, Bernoulli(logits=logit)).shape
    torch.Size([])
    """

    value: float | Tensor

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float | Tensor):
            raise TypeError(f"value must be a number or a tensor, got {type(self.value).__name__}")

    def __call__(self, values: Tensor) -> Tensor:
        return torch.as_tensor(self.value, dtype=values.dtype, device=values.device)


@dataclass(frozen=True)
class LeaveOneOut:
    """For each sample the mean of `f` at the other samples of the same call.

    `b_k = 1/(n-1) Σ_{j≠k} f(z_j)`, so that the gradient estimate is the mean of
    `n/(n-1) (f(z_k) - mean) ∇_φ log q_φ(z_k)`.

    Needs: `num_samples` of at least 2.
    Bias: none.
    Cost: no evaluation of `f` beyond those.

    Raises:
        ValueError: if there are fewer than two values.

    Derived in chapter 7. Source: Kool, van Hoof and Welling (2019),
    https://openreview.net/forum?id=r1lgTGL5DE; Mnih and Rezende (2016),
    https://arxiv.org/abs/1602.06725.

    >>> import torch
    >>> LeaveOneOut()(torch.tensor([1.0, 2.0, 6.0]))
    tensor([4.0000, 3.5000, 1.5000])
    """

    def __call__(self, values: Tensor) -> Tensor:
        if len(values) < 2:
            raise ValueError(
                "LeaveOneOut needs num_samples of at least 2, got 1: with one sample for each "
                "call use MovingAverage"
            )
        return (values.sum(0) - values) / (len(values) - 1)


class MovingAverage(nn.Module):
    """The average of `f` over previous calls, an exponentially weighted one.

    After each call the mean of all its values enters with weight `1 - decay`, and weights are
    scaled to sum to one; the first call has no baseline. One number for the whole batch. In eval
    mode, which `torch.func` needs, the average is used and stays as it is.

    Bias: none, as it knows earlier calls only.
    Cost: nothing.

    Args:
        decay: between 0 (the last call alone) and 1, exclusive.

    Raises:
        ValueError: if `decay` is outside.

    Derived in chapter 7. Source: Williams (1992), https://doi.org/10.1007/BF00992696.

    >>> import torch
    >>> average = MovingAverage(decay=0.5)
    >>> [average(torch.tensor([f])).item() for f in (3.0, 6.0, 0.0)]
    [0.0, 3.0, 5.0]
    """

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, got {decay}")
        self.decay = decay
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        average = self.average()
        if self.training:
            self.update(values.mean())
        return average.to(values)

    def average(self) -> Tensor:
        """The average so far; 0 before the first update."""
        return self.total / self.weight.clamp(min=1 - self.decay)

    def update(self, value: Tensor) -> None:
        """Let one more number enter."""
        self.total.lerp_(value.to(self.total), 1 - self.decay)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)


# --- baselines with parameters -------------------------------------------------------------------


class Learned(nn.Module):
    """A baseline `b(x)` that a network predicts from the input of each entry of the batch.

    `ScoreFunction(learned.at(x))` uses it for the batch `x`. The `backward()` of the estimate also
    gives the network the gradient of the mean squared error `(f(z) - b(x))²`: the same whatever
    the sign or scale of the loss, and nothing of it reaches `x`, `f` or the distribution. Hand
    `learned.parameters()` to an optimizer. In eval mode, which `torch.func` and `torch.compile`
    need, it predicts and is not trained.

    Bias: none.
    Cost: the network; no evaluation of `f`.

    Args:
        network: maps `x`, shape `[*batch_shape, features]`, to `[*batch_shape, 1]` or
            `[*batch_shape]`.

    Raises:
        TypeError: if `network` is not an `nn.Module`.

    Derived in chapter 7. Source: Mnih and Gregor (2014), https://arxiv.org/abs/1402.0030.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> learned = Learned(torch.nn.Linear(2, 1))
    >>> x, logits = torch.ones(3, 2), torch.zeros(3, requires_grad=True)
    >>> ScoreFunction(learned.at(x))(lambda b: b, Bernoulli(logits=logits)).sum().backward()
    >>> learned.network.weight.grad.shape
    torch.Size([1, 2])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be an nn.Module, got {type(network).__name__}")
        self.network = network

    def at(self, x: Tensor) -> Baseline:
        """The baseline for inputs `x`, shape `[*batch_shape, features]`."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor of inputs, got {type(x).__name__}")
        return _At(self, x)

    def predict(self, x: Tensor) -> Tensor:
        """`b(x)`, shape `[*batch_shape]`, with its graph to the network."""
        b = self.network(x.detach())
        batch = x.shape[:-1]
        if b.shape not in (batch, (*batch, 1)):
            raise ValueError(
                "the network of a baseline must return one number for each input, shape "
                f"{tuple(batch)} or {(*batch, 1)}, got {tuple(b.shape)}"
            )
        return b.reshape(batch)

    def estimate(self, values: Tensor, b: Tensor, ratio: Tensor) -> Tensor:
        """The mean of `values` with the gradient that the baseline `b` gives it."""
        return _estimate(values, b, ratio)

    def follow(self, signal: Tensor) -> None:
        """See what the baseline left of the values, `f - b`, after it was used."""


@dataclass(frozen=True, eq=False)
class _At:
    """A learned baseline for one batch of inputs."""

    learned: Learned
    x: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        return self.learned.predict(self.x)

    def estimate(self, values: Tensor, b: Tensor, ratio: Tensor) -> Tensor:
        """As `Learned.estimate`; in train mode `backward()` also trains the network."""
        learned, signal = self.learned, values.detach() - b
        estimate = learned.estimate(values, b.detach(), ratio)
        if not learned.training:
            return estimate
        learned.follow(signal.detach())
        weights = [w for w in learned.parameters() if w.requires_grad]
        if not weights:
            return estimate
        error = signal.square().mean()
        gradients = torch.autograd.grad(error, weights, allow_unused=True, materialize_grads=True)
        return also_train(estimate, weights, gradients)


class NVIL(Learned):
    """A learned baseline, centered by a running mean and divided by a running deviation.

    The learning signal is `(f(z) - b(x) - c) / max(1, s)`, with `c` and `s` the exponentially
    weighted mean and standard deviation of `f - b(x)` over previous calls (the paper lets the
    current call in, which biases it a little). The network is trained on `(f - c - b(x))²`.

    Bias: the gradient of the distribution's parameters is the right one divided by `max(1, s)`,
    as the method has it: its direction is right, its length is not. Parameters of `f` get their
    own gradient whole. A new `NVIL` divides by 1.
    Higher derivatives: refused.

    Args:
        network: as for `Learned`.
        decay: as for `MovingAverage`.

    Raises:
        TypeError, ValueError: as those two.

    Described in chapter 7. Source: Mnih and Gregor (2014), section 2.3,
    https://arxiv.org/abs/1402.0030.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> nvil = NVIL(torch.nn.Linear(2, 1))
    >>> x, logits = torch.ones(3, 2), torch.zeros(3, requires_grad=True)
    >>> payoff = torch.tensor([100.0, 200.0, 300.0])
    >>> f = lambda b: payoff * (1 + b)
    >>> ScoreFunction(nvil.at(x))(f, Bernoulli(logits=logits)).sum().backward()
    >>> bool(nvil.scale() > 1)  # from the next call on
    True
    """

    def __init__(self, network: nn.Module, decay: float = 0.9) -> None:
        super().__init__(network)
        self.mean, self.variance = MovingAverage(decay), MovingAverage(decay)

    def scale(self) -> Tensor:
        """What the learning signal is divided by: `max(1, s)`."""
        return self.variance.average().sqrt().clamp(min=1)

    def predict(self, x: Tensor) -> Tensor:
        b = super().predict(x)
        return b + self.mean.average().to(b)

    def estimate(self, values: Tensor, b: Tensor, ratio: Tensor) -> Tensor:
        signal = ((values.detach() - b) / self.scale().to(values)).to(ratio)
        source = ratio.movedim(0, -1)
        return attach("NVIL", values.mean(0), source, signal.movedim(0, -1) / len(values))

    def follow(self, signal: Tensor) -> None:
        self.variance.update(signal.var(correction=0))
        self.mean.update(signal.mean() + self.mean.average().to(signal))


# --- the best constant ---------------------------------------------------------------------------

_LARGEST = 2**16  # points of a support that are summed before a pilot takes over
_PILOT = 1000  # samples


def optimal_constant(
    f: Integrand, distribution: Distribution, num_samples: int | None = None
) -> Tensor:
    """The constant baseline of least variance, `E[f ‖s‖²] / E[‖s‖²]` with `s = ∇ log q`.

    It minimizes the summed variance over the parameters of the distribution that want a gradient
    (over all if none does). These are the ones that the distribution was made from: another
    parametrization, logits for probabilities, weighs several of them differently, and has another
    optimum. For one Bernoulli variable it is `(1 - θ) f(1) + θ f(0)`, not `E[f]`, in both.

    Exact by summation for a finite support of up to 65,536 points, else, or if `num_samples` is
    given, from a pilot of its own of that many samples (1,000), which makes it independent of the
    samples that it will be used for.

    Args:
        f, distribution: as for every estimator (see `Pathwise`); `f` is evaluated without a graph.
        num_samples: of the pilot; None to sum where that is possible.

    Returns:
        A tensor of `batch_shape`, without a graph; 0 where the score is 0 throughout.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `f` returns a wrong shape or NaN, or if the distribution's parameters cannot
            be told.

    Derived in chapter 7. Source: Weaver and Tao (2001), https://arxiv.org/abs/1301.2315;
    Mohamed et al. (2020), section 7.4, https://arxiv.org/abs/1906.10652.

    >>> from torch.distributions import Bernoulli
    >>> optimal_constant(lambda b: b, Bernoulli(torch.tensor(0.9)))
    tensor(0.1000)
    """
    check_call(f, distribution, 1)
    if num_samples is not None:
        check_count("num_samples", num_samples)
    with torch.no_grad():
        z, weights = _weighted_points(distribution, num_samples)
        values = values_of(f, z, distribution)
    length = weights * _squared_score(distribution, z)
    total = length.sum(0)
    return (values.detach() * length).sum(0) / total.where(total > 0, 1)


def _weighted_points(
    distribution: Distribution, num_samples: int | None
) -> tuple[Tensor, Tensor | float]:
    """Points and weights that average over the distribution."""
    if num_samples is None:
        try:
            z = support_points(distribution, _LARGEST)
        except ValueError:  # not finite, or too large
            num_samples = _PILOT
        else:
            return z, distribution.log_prob(z).exp()
    return distribution.sample((num_samples,)), 1 / num_samples


def _squared_score(distribution: Distribution, z: Tensor) -> Tensor:
    """`‖∇ log q(z)‖²` of every sample, shape `[n, *batch_shape]`."""
    parameters = parameters_of(distribution)
    wanted = [name for name, p in parameters.items() if p.requires_grad] or list(parameters)
    copies = {name: p.detach().expand(len(z), *p.shape) for name, p in parameters.items()}
    leaves = [copies[name].requires_grad_() for name in wanted]
    with torch.enable_grad():
        log_prob = rebuilt(distribution, copies).log_prob(z)
        scores = torch.autograd.grad(log_prob.sum(), leaves)
    return sum(s.square().reshape(*log_prob.shape, -1).sum(-1) for s in scores)
