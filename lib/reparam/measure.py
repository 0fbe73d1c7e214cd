"""Measure a gradient estimator, and hold it against the exact gradient.

`measure` draws many replicates of an estimate in one batch; `exact_gradient` computes the truth by
summation or quadrature, without sampling and without any estimator; `compare` puts several
estimators beside it in one table and one picture.

All three take the integrand `f(z)` or, where it depends on the parameters itself, as every ELBO
does, `f(z, **parameters)`: name those parameters in the signature of `f`, and they are passed.

The parameters may be the weights of a network, by `torch.func.functional_call`, with
`per_replicate=True`; `compare` shows how.
"""

import copy
import functools
import html
import inspect
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.special import ndtr, stdtrit
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from tqdm.auto import tqdm

from reparam._checks import (
    check_alike,
    check_count,
    check_finite,
    check_float,
    check_number,
    is_infinite,
)
from reparam._functions import keeping_modes
from reparam._progress import bars_are_off
from reparam.estimators import ScoreFunction
from reparam.estimators._contract import (
    check_estimates,
    check_estimator,
    innermost,
    modules_in,
    parameters_of,
    rebuilt,
)

__all__ = [
    "Comparison",
    "ExactGradient",
    "Measurement",
    "Row",
    "compare",
    "exact_gradient",
    "measure",
]

MakeDistribution = Callable[..., Distribution]
Parameters = Mapping[str, Tensor]

_CHUNK = 2**22  # numbers drawn at once: bounds the memory of `measure` and of a sum over a support


@dataclass(frozen=True)
class Measurement:
    """What `measure` returns; every dict is keyed by parameter name and shaped like it.

    Attributes:
        mean, variance: of one gradient estimate, over the replicates. The mean has the parameter's
            dtype, all else float64, since a variance has twice the exponent.
        standard_error, variance_standard_error: of `mean` and of `variance`; the latter from
            the fourth moment, `sqrt((m4 - variance²) / replicates)`.
        replicates: how many independent estimates were drawn.
        evaluations: of `f`, for each estimate.
        seconds: for each estimate, drawn in a batch, forward and backward.

    Used in chapters 1, 2, 3, 5 and 7 through `measure`.

    >>> from torch.distributions import Normal
    >>> from reparam.estimators import Pathwise
    >>> parameters = {"loc": torch.tensor(1.0), "scale": torch.tensor(1.0)}
    >>> result = measure(Pathwise(), lambda z: 3 * z, Normal, parameters)
    >>> result.mean["loc"], result.variance["loc"].item()  # the slope of f is 3 wherever z falls
    (tensor(3.), 0.0)
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    standard_error: dict[str, Tensor]
    variance_standard_error: dict[str, Tensor]
    replicates: int
    evaluations: float
    seconds: float


@dataclass(frozen=True)
class ExactGradient:
    """What `exact_gradient` returns.

    Attributes:
        gradient: of `E[f(z)]`, summed over the batch, by parameter name; float64.
        error: a bound on the absolute error of each entry of `gradient`: ten times the
            quadrature's own estimate and what a second one differs by.
        value, value_error: `E[f(z)]`, of `batch_shape`, and its bound.

    Used in chapters 1, 2, 3, 4, 5 and 7 through `exact_gradient`.

    >>> from torch.distributions import Bernoulli
    >>> exact = exact_gradient(lambda b: 3 * b, Bernoulli, {"probs": torch.tensor(0.25)})
    >>> round(exact.gradient["probs"].item(), 6), round(exact.value.item(), 6)
    (3.0, 0.75)
    """

    gradient: dict[str, Tensor]
    error: dict[str, Tensor]
    value: Tensor
    value_error: Tensor


def measure(
    estimator: Callable,
    f: Callable,
    make_distribution: MakeDistribution,
    parameters: Parameters,
    num_samples: int = 1,
    replicates: int = 1000,
    per_replicate: bool = False,
) -> Measurement:
    """Mean and variance of a gradient estimator, from many independent replicates.

    All replicates are drawn as one batch (in chunks of bounded memory): every parameter gets a
    leading dimension, one copy for each replicate, and each copy receives its own gradient.

    Args:
        estimator: `estimator(f, distribution, num_samples)`. An `nn.Module`, or one that it holds
            in a field or an attribute at any depth, such as a baseline with a running average, is
            put in eval mode and its state restored, so that measuring does not train it. What a
            lambda or a local function refers to cannot be found, and is trained.
        f: the integrand, `f(z)` or `f(z, **parameters)`.
        make_distribution: builds the distribution from the parameters, by keyword, also when
            each of them has an extra leading dimension. A Cholesky factor wants `L.tril()` there:
            torch's samples have a slope in what stands above the diagonal, its density has none.
        parameters: tensors by name.
        num_samples: handed to the estimator.
        replicates: at least 2.
        per_replicate: draw one replicate at a time with the parameters as they are. Slow, and
            right for anything, the weights of a network included.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `make_distribution` does not carry the extra dimension through, if the
            estimate has no path to a parameter, if an estimate's gradient is NaN or infinite, or if
            a parameter holds NaN or nothing.

    Used in chapters 1, 2, 3, 5 and 7. Source: our own.

    >>> from torch.distributions import Normal
    >>> from reparam.estimators import Pathwise
    >>> parameters = {"loc": torch.tensor(1.0), "scale": torch.tensor(1.0)}
    >>> _ = torch.manual_seed(0)
    >>> result = measure(Pathwise(), torch.square, Normal, parameters, replicates=100_000)
    >>> round(result.variance["loc"].item(), 1)  # exactly 4
    4.0
    """
    return _measure(
        estimator,
        f,
        make_distribution,
        parameters,
        num_samples,
        replicates,
        per_replicate,
        advance=lambda count: None,
    )


@torch.inference_mode(False)  # turns gradients on, too, whatever the caller turned off
def _measure(
    estimator: Callable,
    f: Callable,
    make_distribution: MakeDistribution,
    parameters: Parameters,
    num_samples: int,
    replicates: int,
    per_replicate: bool,
    advance: Callable[[int], object],
) -> Measurement:
    """`measure`, which calls `advance(count)` after every chunk of replicates."""
    _check_parameters(parameters)
    check_count("num_samples", num_samples)
    check_count("replicates", replicates, least=2)
    check_estimator(estimator)
    integrand, calls = _counted(_with_parameters(f, parameters))
    if not per_replicate:
        _probe(make_distribution, parameters)

    def estimate(leading: tuple[int, ...]) -> tuple[Tensor, Parameters]:
        """One estimate for each copy of the parameters, and the copies."""
        copies = {
            name: value.detach().expand((*leading, *value.shape)).clone().requires_grad_()
            for name, value in parameters.items()
        }
        distribution = _built(make_distribution, copies)
        estimates = estimator(lambda z: integrand(z, copies), distribution, num_samples)
        check_estimates(estimates, distribution.batch_shape)
        return estimates, copies

    moments = {name: _Moments(value) for name, value in parameters.items()}
    seconds, evaluations = 0.0, 0
    with _frozen(estimator):
        if per_replicate:
            chunk = 1
        else:
            with torch.random.fork_rng():
                probe = _probe_length(parameters)
                estimate((probe,))
                room = [*calls, *calls[-1:] * 2]  # f needs some of its own
                handed = sum(x.numel() for x in (*room, *parameters.values()))
                for z in calls[-1:]:  # a closed form asks f for nothing
                    _check_replicates_apart(integrand, z, parameters, probe)
            chunk = max(1, min(replicates, _CHUNK * probe // handed))
        calls.clear()
        for start in range(0, replicates, chunk):
            count = min(chunk, replicates - start)
            began = _now(parameters)
            estimates, copies = estimate(() if per_replicate else (count,))
            gradients = _gradients(estimates, copies)
            seconds += _now(parameters) - began
            evaluations += sum(len(z) for z in calls)
            calls.clear()
            for name, gradient in gradients.items():
                _refuse_infinite(name, gradient, count)
                moments[name].add(gradient.reshape(count, *parameters[name].shape))
            advance(count)

    return Measurement(
        mean={name: m.mean() for name, m in moments.items()},
        variance={name: m.variance() for name, m in moments.items()},
        standard_error={name: (m.variance() / replicates).sqrt() for name, m in moments.items()},
        variance_standard_error={name: m.variance_error() for name, m in moments.items()},
        replicates=replicates,
        evaluations=evaluations / math.ceil(replicates / chunk),
        seconds=seconds / replicates,
    )


def exact_gradient(
    f: Callable,
    make_distribution: MakeDistribution,
    parameters: Parameters,
    break_points: Iterable[float] = (),
    tolerance: float = 1e-8,
    per_replicate: bool = False,
) -> ExactGradient:
    """The gradient of `E[f(z)]` by summation or quadrature, in float64, with an error bound.

    `∇ ∫ q_φ(z) f(z) dz = ∫ f(z) ∇q_φ(z) dz`: the *density* is differentiated, never `f` along
    `z`, so that steps and kinks in `f` are as welcome as anything. What `f` does with the
    parameters themselves is differentiated at fixed `z`. Finite supports are summed; continuous
    ones, up to two variables an event, are integrated adaptively by Gauss-Legendre rules.

    The answer is refused, with the reason, unless the density integrates to one, two quadratures
    on different subdivisions converge to `tolerance` and agree, and the gradient agrees with a
    difference quotient of the integral along a random direction, to about one part in 10,000.
    What no black-box quadrature can see is a feature of `f` between all its points. In one variable
    `break_points` are needed for one narrower than a twentieth of the distribution's spread, or
    further out than eight of them (in a batch of more than eight laws on a half line or an
    interval: narrower than a twentieth of the median's distance from its end, or of the interval);
    in two variables for one narrower than the spread itself. Nor does `error` count what the
    distribution's own `log_prob` loses by rounding; and where the integrand has a pole that is all
    but too strong, such as `z**-0.97` at 0, it may be too small by half.

    Args:
        f, make_distribution, parameters: as for `measure`. Parameters are taken to float64.
        break_points: values of `z` where `f` jumps, bends or spikes; in several dimensions each
            is used for every coordinate.
        tolerance: of the gradient, relative above 1 and absolute below.
        per_replicate: also take parameters that cannot have an extra leading dimension, such as
            the weights of a network. A sum over a finite support is differentiated as a whole;
            a quadrature is taken by the distribution's own parameters, and the chain rule does
            the rest. Where `make_distribution` or `f` refuses float64, the sum is taken in the
            parameters' own dtype, and `error` says what that costs.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if there is no answer within the tolerance, the tolerance is no positive number,
            or `f` or `make_distribution` mix entries of the batch.

    Used in chapters 1, 2, 3, 4, 5 and 7. Source: Mohamed et al. (2020), section 2,
    https://arxiv.org/abs/1906.10652.

    >>> from torch.distributions import Normal
    >>> parameters = {"loc": torch.tensor(0.5), "scale": torch.tensor(1.0)}
    >>> truth = exact_gradient(lambda z: (z > 0).double(), Normal, parameters, break_points=[0])
    >>> round(truth.gradient["loc"].item(), 4)  # the normal density at 0.5
    0.3521
    """
    _check_parameters(parameters)
    try:
        break_points = tuple(float(point) for point in break_points)
    except TypeError:
        raise TypeError(f"break_points must be numbers in a list, got {break_points!r}") from None
    check_number("tolerance", tolerance)
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be positive and finite, got {tolerance}")
    return _exact_gradient(
        _with_parameters(f, parameters),
        make_distribution,
        parameters,
        break_points,
        tolerance,
        per_replicate,
    )


@torch.inference_mode(False)  # turns gradients on, too, whatever the caller turned off
def _exact_gradient(
    integrand: Callable,
    make_distribution: MakeDistribution,
    parameters: Parameters,
    break_points: tuple[float, ...],
    tolerance: float,
    per_replicate: bool,
) -> ExactGradient:
    """`exact_gradient`, its arguments checked."""
    exact = {name: value.detach().double() for name, value in parameters.items()}
    try:
        distribution = _probe(make_distribution, exact)
    except (RuntimeError, ValueError) as error:
        if not per_replicate:
            _raise_in_float64(error)
        return _exact_of_weights(integrand, make_distribution, parameters, break_points, tolerance)
    try:
        problem, pilot, direction = _pose(integrand, make_distribution, exact, distribution)
    except RuntimeError as error:
        _raise_in_float64(error)
    if distribution.support.is_discrete:
        _check_by_differences(problem, result := _sum_over(problem), direction, _sum_over)
        return result

    def integrate(problem: _Problem, shift: float = 0.0) -> ExactGradient:
        return _integrate(problem, pilot, break_points, tolerance, shift)

    result = _with_error(integrate(problem), integrate(problem, shift=0.4), tolerance)
    _check_by_differences(problem, result, direction, integrate)
    return result


def _raise_in_float64(error: Exception) -> NoReturn:
    """Raise it, or a clearer one if `make_distribution`, or what it made, mixes dtypes."""
    if isinstance(error, ValueError) or not re.search("dtype|scalar type", str(error)):
        raise error
    raise ValueError(
        f"no exact gradient: the distribution fails with float64 parameters ({error}); where "
        "make_distribution has constants or weights of its own, give them .to(parameter)"
    ) from error


# --- shared by measure and exact_gradient --------------------------------------------------------


def _check_parameters(parameters: Parameters) -> None:
    if not isinstance(parameters, Mapping) or not parameters:
        raise TypeError(
            "parameters must be a dict of tensors by name, such as "
            f"{{'loc': loc, 'scale': scale}}, got {parameters!r}"
        )
    check_float(**parameters)
    check_alike(**parameters)


def _with_parameters(f: Callable, parameters: Parameters) -> Callable[[Tensor, Parameters], Tensor]:
    """`f` as a function of `z` and all parameters, of which it is given those it names.

    What `functools.partial` has bound already stays so.
    """
    if not callable(f):
        raise TypeError(f"f must be a function of the samples, got {type(f).__name__}")
    partly = f if isinstance(f, functools.partial) else functools.partial(f)
    # A module's own signature, whatever its forward takes, is (*args, **kwargs).
    called = partly.func.forward if isinstance(partly.func, nn.Module) else partly.func
    try:
        signature = inspect.signature(functools.partial(called, *partly.args, **partly.keywords))
        named = signature.parameters
    except ValueError:  # a builtin such as torch.square
        named = {}
    if any(p.kind is p.VAR_KEYWORD for p in named.values()):
        wanted = set(parameters)
    else:
        wanted = set(parameters) & set(list(named)[1:])
    wanted -= set(partly.keywords)
    return lambda z, values: f(z, **{name: values[name] for name in wanted})


def _counted(integrand: Callable) -> tuple[Callable, list[Tensor]]:
    """The integrand, and a list that gains the samples of every call; empty it to let them go."""
    calls: list[Tensor] = []

    def counting(z: Tensor, values: Parameters) -> Tensor:
        calls.append(z.detach())
        return integrand(z, values)

    return counting, calls


def _refuse_infinite(name: str, gradient: Tensor, count: int) -> None:
    if is_infinite(gradient):
        bad = int((~gradient.reshape(count, -1).isfinite()).any(-1).sum())
        raise ValueError(
            f"the gradient for {name!r} is NaN or infinite in {bad} of {count} replicates, so that "
            "it has no mean. Look for values of f that overflow, and for a slope that is infinite "
            "where its value is not, as that of sqrt at 0: torch.where does not keep it out, a "
            "clamp to a small positive number before sqrt does"
        )


def _check_replicates_apart(
    integrand: Callable, z: Tensor, parameters: Parameters, probe: int
) -> None:
    """The values of a replicate stay what they are when the samples of others change."""
    copies = {
        name: value.detach().expand(probe, *value.shape) for name, value in parameters.items()
    }
    pool = z.flatten(0, 1)
    count = max(1, min(32, 2**20 // z[0].numel()))
    chosen = torch.randint(len(pool), (2, count, probe), device=z.device)

    def values(samples: Tensor) -> Tensor:
        with torch.random.fork_rng(), torch.no_grad():  # f's own noise, if any, always the same
            return integrand(samples, copies)

    if _mixes(values, *pool[chosen], (probe,), tolerance=1e-3):
        raise ValueError(
            "f mixes replicates: its value at one sample changes with the others'. Let it act on "
            "event dimensions alone, the last of [n, *batch_shape, *event_shape] (a mean or a "
            "softmax over all, or dim=0, does not); or pass per_replicate=True"
        )


def _mixes(
    f: Callable[[Tensor], Tensor], z: Tensor, other: Tensor, shape: tuple[int, ...], tolerance=0.0
) -> bool:
    """Whether the value of some entry changes when others take their samples from `other`.

    Of any two entries, some set that is moved has the one without the other: those whose number
    has a certain bit, and the rest. So few sets find a dependence of any entry on any other.

    Args:
        f: maps `[n, *shape, ...]` to `[n, *shape, ...]`.
        z, other: samples, `[n, *shape, ...]`.
        shape: of the entries.
        tolerance: of the values, relative.
    """
    still = f(z).double()
    margin = 1e-3 * tolerance * still.nan_to_num(0, 0, 0).abs().max().item()
    number = torch.arange(math.prod(shape), device=z.device).reshape(shape)
    event = (1,) * (z.ndim - 1 - len(shape))
    for bit in range((number.numel() - 1).bit_length()):
        for side in (0, 1):
            moved = (number >> bit) & 1 == side
            samples = torch.where(moved.reshape(*shape, *event), other, z)
            before, after = (values[:, ~moved] for values in (still, f(samples).double()))
            if not torch.allclose(after, before, rtol=tolerance, atol=margin, equal_nan=True):
                return True
    return False


def _built(make_distribution: MakeDistribution, parameters: Parameters) -> Distribution:
    """The distribution, its parameters checked by torch.

    The first `torch.compile` of a process turns these checks off for good; without them a
    negative scale passes, and quadrature walks into it.
    """
    if not callable(make_distribution):
        raise TypeError(
            "make_distribution must be a function of the parameters, such as Normal itself or a "
            f"lambda, got {type(make_distribution).__name__}"
        )
    before = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    try:
        return make_distribution(**parameters)
    finally:
        Distribution.set_default_validate_args(before)


def _probe_length(parameters: Parameters) -> int:
    """A number of replicates that no dimension of a parameter has, which would hide mistakes."""
    sizes = {size for value in parameters.values() for size in value.shape}
    return next(length for length in itertools.count(7) if length not in sizes)


def _probe(make_distribution: MakeDistribution, parameters: Parameters) -> Distribution:
    """The distribution, once it is known to carry a leading dimension through."""
    distribution = _built(make_distribution, parameters)
    if not isinstance(distribution, Distribution):
        raise TypeError(
            "make_distribution must return a torch.distributions.Distribution, got "
            f"{type(distribution).__name__}"
        )
    probe = _probe_length(parameters)
    wanted = (probe, *distribution.batch_shape)
    advice = (
        "index parameters from the right (x[..., 0], x.unbind(-1), .mT, @), so that one more "
        "dimension on the left goes through; or, in measure and compare, pass per_replicate=True"
    )
    try:
        copies = {name: value.expand(probe, *value.shape) for name, value in parameters.items()}
        widened = _built(make_distribution, copies)
    except Exception as error:
        raise ValueError(
            "make_distribution fails when every parameter has an extra leading dimension "
            f"({type(error).__name__}: {error}): {advice}"
        ) from error
    if widened.batch_shape != wanted or widened.event_shape != distribution.event_shape:
        raise ValueError(
            "make_distribution must give batch_shape "
            f"{wanted} and event_shape {tuple(distribution.event_shape)} when every parameter has "
            f"an extra leading dimension of {probe}, got {tuple(widened.batch_shape)} and "
            f"{tuple(widened.event_shape)}: {advice}"
        )
    return distribution


def _now(parameters: Parameters) -> float:
    """The clock, read when all that was asked of the parameters' GPU, if any, is done."""
    device = next(iter(parameters.values())).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _gradients(estimate: Tensor, parameters: Parameters) -> dict[str, Tensor]:
    """The gradient of the summed estimate with respect to every parameter."""
    none: tuple[Tensor | None, ...] = (None,) * len(parameters)
    found = (
        torch.autograd.grad(estimate.sum(), list(parameters.values()), allow_unused=True)
        if estimate.requires_grad
        else none
    )
    for name, gradient in zip(parameters, found, strict=True):
        if gradient is None:
            raise ValueError(
                f"the estimate has no path to parameter {name!r}: backward() would leave its "
                ".grad at None. Was the sample drawn with sample() instead of rsample(), or the "
                "parameter detached or never used?"
            )
    return dict(zip(parameters, found, strict=True))


@contextmanager
def _frozen(estimator: Callable) -> Iterator[None]:
    """An estimator with state of its own in eval mode inside, and as it was afterwards."""
    modules = nn.ModuleList(modules_in(estimator))
    # Not the state_dict, which leaves out some buffers and may hold what is no tensor.
    before = [
        (table, dict(table))
        for module in modules.modules()
        for table in (module._parameters, module._buffers)
    ]
    copies = [
        (tensor, tensor.detach().clone())
        for _, held in before
        for tensor in held.values()
        if tensor is not None
    ]
    extra = [
        (module, copy.deepcopy(module.get_extra_state()))
        for module in modules.modules()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    with keeping_modes(modules):
        modules.eval()
        try:
            yield
        finally:
            for table, held in before:
                table.clear()
                table.update(held)
            for tensor, kept in copies:
                _put_back(tensor, kept)
            for module, state in extra:
                module.set_extra_state(state)


@torch.no_grad()
def _put_back(tensor: Tensor, before: Tensor) -> None:
    """What was changed only: a graph may hold the tensor, and some cannot be written to."""
    can_be_read = tensor.layout is torch.strided and not tensor.is_meta
    if can_be_read and torch.equal(tensor, before):
        return
    if tensor.shape != before.shape:
        tensor.resize_(before.shape)
    tensor.copy_(before)


class _Moments:
    """Running power sums of `[count, *shape]` tensors about a fixed pivot, in float64."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.count, self.pivot = like, 0, None
        self.sums = [torch.zeros_like(like, dtype=torch.float64) for _ in range(4)]

    def add(self, values: Tensor) -> None:
        values = values.double()
        if self.pivot is None:
            self.pivot = values.mean(0)
        deviation = values - self.pivot
        for power, total in enumerate(self.sums, start=1):
            total += deviation.pow(power).sum(0)
        self.count += len(values)

    def _central(self) -> tuple[Tensor, Tensor, Tensor]:
        """The shift from the pivot to the mean, and the second and fourth central moments."""
        d, m2, m3, m4 = (total / self.count for total in self.sums)
        return d, m2 - d**2, m4 - 4 * d * m3 + 6 * d**2 * m2 - 3 * d**4

    def mean(self) -> Tensor:
        return (self.pivot + self._central()[0]).to(self.like.dtype)

    def variance(self) -> Tensor:
        return self._central()[1].clamp(min=0) * self.count / (self.count - 1)

    def variance_error(self) -> Tensor:
        _, second, fourth = self._central()
        return ((fourth - second**2).clamp(min=0) / self.count).sqrt()


# --- the exact gradient --------------------------------------------------------------------------


def _pose(
    integrand: Callable,
    make_distribution: MakeDistribution,
    parameters: Parameters,
    distribution: Distribution,
) -> "tuple[_Problem, Tensor, Parameters]":
    """The problem, once `f` is checked; samples; a random direction in the parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pilot = distribution.sample((512,))
        direction = {name: torch.randn_like(value) for name, value in parameters.items()}
    for name, value in direction.items():
        if value.ndim > 1 and value.shape[-1] == value.shape[-2]:
            direction[name] = value + value.mT  # it may be a covariance
    values = _check_integrand(integrand, pilot, distribution, parameters).detach().double()
    values = torch.where(values.isfinite(), values, 0.0)
    problem = _Problem(
        integrand,
        make_distribution,
        parameters,
        distribution,
        anchor=pilot[0],
        level=values.median(0).values,
        size=values.abs().mean(0).clamp(min=1.0),
    )
    return problem, pilot, direction


@dataclass(frozen=True)
class _Problem:
    """`E[f(z)]` as something to be summed over points `z` with weights.

    `anchor` is one sample; `level` and `size` are a typical value and magnitude of `f`, by entry
    of the batch. As `∫ ∇q dz = 0`, a constant can be taken off `f` before its gradient is
    integrated, and less cancels.
    """

    integrand: Callable[[Tensor, Parameters], Tensor]
    make_distribution: MakeDistribution
    parameters: Parameters
    distribution: Distribution
    anchor: Tensor
    level: Tensor
    size: Tensor

    def terms(self, z: Tensor, weight: Tensor | float) -> Tensor:
        """At each point: mass and value of each batch entry, then the gradient's entries.

        Args:
            z: points, `[n, *batch_shape, *event_shape]`.
            weight: of each point, something that broadcasts to `[n, *batch_shape]`.

        Returns:
            `[n, 2 * batch + entries]`.
        """
        n = len(z)
        # Where the density is 0, f may be infinite; where it is infinite, the point is an
        # endpoint reached by rounding. Neither carries mass, and a sample stands in for it, so
        # that no NaN comes back through the unused branch.
        density = self.distribution.log_prob(z).exp()
        counts = (density > 0) & density.isfinite()
        event = (1,) * len(self.distribution.event_shape)
        z = torch.where(counts.reshape(*counts.shape, *event), z, self.anchor)
        copies = {
            name: value.expand(n, *value.shape).clone().requires_grad_()
            for name, value in self.parameters.items()
        }
        mass = _built(self.make_distribution, copies).log_prob(z).exp() * weight * counts
        # One leading dimension for n as every f has it, one of length 1 for the sample.
        f = self.integrand(z.unsqueeze(0), copies).squeeze(0).double()
        _refuse_nan(f, z)
        value = mass * f
        vanishing = counts & (density < 1e-290) & (value.abs() > 1e-12 * self.size)
        if vanishing.any():
            raise ValueError(
                "no exact gradient: f still counts where the density underflows, at "
                f"z = {z[vanishing].flatten()[0].item():g}, so that the integral beyond is lost "
                "or does not exist"
            )
        total = (mass * (f - self.level)).sum()
        slopes = (
            torch.autograd.grad(total, list(copies.values()), allow_unused=True)
            if total.requires_grad
            else [None] * len(copies)
        )
        flat = [
            like.new_zeros(n, like[0].numel()) if slope is None else slope.reshape(n, -1)
            for slope, like in zip(slopes, copies.values(), strict=True)
        ]
        value = value / self.size
        return torch.cat([mass.reshape(n, -1), value.reshape(n, -1), *flat], dim=-1).detach()

    def moved(self, toward: Parameters, step: float) -> "_Problem":
        """The problem with its parameters a step further on."""
        parameters = {name: v + step * toward[name] for name, v in self.parameters.items()}
        distribution = _built(self.make_distribution, parameters)
        return replace(self, parameters=parameters, distribution=distribution)

    def unpack(self, total: Tensor, error: Tensor) -> ExactGradient:
        """Sort the summed terms back into shapes."""
        shape = self.distribution.batch_shape
        batch = shape.numel()
        sizes = [batch, batch, *(value.numel() for value in self.parameters.values())]
        error = error + 1e-14 * total.abs()
        (mass, value, *gradient), (mass_error, value_error, *errors) = (
            t.split(sizes) for t in (total, error)
        )
        off = (mass - 1).abs().max().item()
        if off > 1e-6 + mass_error.max().item():
            raise ValueError(
                f"no exact gradient: the density sums to {mass[(mass - 1).abs().argmax()]:.6g} "
                "where it should to 1, so that part of it is missed or its support is not what "
                "it says: give break_points where the mass is"
            )
        named = list(self.parameters.items())
        return ExactGradient(
            gradient={k: g.reshape(v.shape) for (k, v), g in zip(named, gradient, strict=True)},
            error={k: e.reshape(v.shape) for (k, v), e in zip(named, errors, strict=True)},
            value=value.reshape(shape) * self.size,
            value_error=value_error.reshape(shape) * self.size,
        )


def _check_integrand(
    integrand: Callable, pilot: Tensor, distribution: Distribution, parameters: Parameters
) -> Tensor:
    """`f` gives one value for each sample, the same one twice, and keeps batch entries apart.

    Returns its values at the pilot samples.
    """
    batch = tuple(distribution.batch_shape)
    z = pilot[:2]
    try:
        values = integrand(z, parameters)
    except RuntimeError as error:
        raise ValueError(
            f"no exact gradient: f fails on float64 samples of shape {tuple(z.shape)} ({error}); "
            "where it has constants or weights of its own, give them .to(z.dtype)"
        ) from error
    if not isinstance(values, Tensor) or values.shape != (2, *batch):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"f must return one value for each sample, shape {(2, *batch)} for samples of shape "
            f"{tuple(z.shape)}, got {got}"
        )
    if values.is_complex():
        raise TypeError(f"f must return real numbers, got dtype {values.dtype}")
    if values.isnan().any():
        raise ValueError("f returned NaN on a sample of the distribution")
    if not torch.equal(values, integrand(z, parameters)):
        raise ValueError(
            "f gives two values at the same z, so that E[f(z)] is more than an integral over z: "
            "draw the randomness inside f once, outside"
        )
    everywhere = integrand(pilot, parameters)
    if not torch.allclose(everywhere[:2].double(), values.double(), rtol=1e-3, atol=0):
        raise ValueError(
            "f mixes samples: its value at one of them changes with how many there are. Let it act "
            "on event dimensions alone, the last of [n, *batch_shape, *event_shape]"
        )
    if batch and _mixes(
        lambda z: integrand(z, parameters).detach(), *_pairs(distribution, pilot), batch
    ):
        raise ValueError(
            "f mixes entries of the batch, and each should have an expectation of its own: "
            "declare variables that f mixes as one event with Independent(distribution, 1)"
        )
    return everywhere


def _pairs(distribution: Distribution, pilot: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of samples; from all of a finite support alike, so that rare ones are there too."""
    batch, event = distribution.batch_shape, distribution.event_shape
    count = max(16, min(len(pilot), 2**12 // batch.numel()))
    if not distribution.support.is_discrete:
        return pilot[:count], pilot.flip(0)[:count]
    values, variables = _finite_support(distribution)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = torch.randint(len(values), (2 * count, *batch, variables), device=values.device)
    z = values[chosen].reshape(2 * count, *batch, *event)
    return z[:count], z[count:]


def _refuse_nan(f: Tensor, z: Tensor) -> None:
    if f.isnan().any():
        where = z[f.isnan()].flatten()[0].item()
        raise ValueError(f"no exact gradient: f is NaN at z = {where:g}")


def _finite_support(distribution: Distribution) -> tuple[Tensor, int]:
    """The values that each variable of a discrete event takes, and the number of variables."""
    base = innermost(distribution)
    try:
        values = base.enumerate_support(expand=False)
    except NotImplementedError:
        raise ValueError(
            f"no exact gradient: {type(base).__name__} has no list of its values, or they are "
            "infinitely many"
        ) from None
    values = values.reshape(len(values), *base.event_shape)
    variables = distribution.event_shape.numel() // base.event_shape.numel()
    if len(values) ** variables > 2**20:
        raise ValueError(
            f"no exact gradient: the support has {len(values)}**{variables} points, more than 2**20"
        )
    return values, variables


def _sum_over(problem: _Problem) -> ExactGradient:
    total = sum(problem.terms(z, 1.0).sum(0) for z in _points(problem.distribution))
    return problem.unpack(total, torch.zeros_like(total))


def _points(distribution: Distribution) -> Iterator[Tensor]:
    """All points of a finite support, in chunks `[n, *batch_shape, *event_shape]`."""
    batch, event = distribution.batch_shape, distribution.event_shape
    values, variables = _finite_support(distribution)
    size = max(1, _CHUNK // (16 * (batch + event).numel()))
    choices = itertools.product(range(len(values)), repeat=variables)
    while chunk := list(itertools.islice(choices, size)):
        z = values[torch.tensor(chunk, device=values.device)]
        yield z.reshape(len(chunk), *(1,) * len(batch), *event).expand(-1, *batch, *event)


def _integrate(
    problem: _Problem,
    pilot: Tensor,
    break_points: tuple[float, ...],
    tolerance: float,
    shift: float,
) -> ExactGradient:
    """Adaptive quadrature in coordinates `t` in which every batch entry has about unit size.

    `shift` moves all subdivisions, so that two integrals overlook different things.
    """
    batch, event = problem.distribution.batch_shape, problem.distribution.event_shape
    dims = event.numel()
    if dims > 2:
        raise ValueError(
            f"no exact gradient: quadrature goes up to 2 continuous variables an event, got {dims}"
        )
    middle, spread = _middle_and_spread(pilot)
    origin, scale, low, high = _coordinates(problem.distribution, middle, spread)
    jacobian = scale.abs().reshape((*batch, dims)).prod(-1)

    def terms(t: np.ndarray, stretch: np.ndarray) -> np.ndarray:
        t, stretch = (torch.as_tensor(x, device=origin.device) for x in (t, stretch))
        t = t.reshape(len(t), *(1,) * len(batch), *event)
        weight = jacobian * stretch.reshape(-1, *(1,) * len(batch))
        return problem.terms(origin + scale * t, weight).cpu().numpy()

    # Narrow features are seen where the first sweep is fine; in one variable that costs little.
    grid = (np.arange(-32, 33) + shift) / (4 if math.isinf(high) else 32)
    cuts = [grid if dims == 1 else np.array([shift])]
    if dims == 1 and batch.numel() <= 8 and not math.isinf(low):
        steps = torch.arange(-32, 33, device=middle.device).reshape(-1, *(1,) * middle.ndim)
        around = middle + spread * (steps + shift) / 4
        cuts += [((around - origin) / scale).cpu().numpy().ravel()]
    cuts += [((point - origin) / scale).cpu().numpy().ravel() for point in break_points]
    cuts = np.unique(np.concatenate(cuts))
    edges = np.array([low, *cuts[(cuts > low) & (cuts < high)], high])
    at_once = max(1, _CHUNK // (32 * len(_rules(dims)[0]) * (batch + event).numel()))
    with np.errstate(all="ignore"):  # an error tells of a diverging integral
        found = _adaptive(terms, _boxes(edges, dims), tolerance, at_once)
    total, error = (torch.as_tensor(x, device=origin.device) for x in found)
    return problem.unpack(total, error)


def _boxes(edges: np.ndarray, dims: int) -> np.ndarray:
    """The boxes between the edges, `[4, boxes, dims]`: low, high, origin, side.

    A side of a box that goes to infinity has `t = origin ± (1/s - 1)`, with `s` in (0, 1); low and
    high are those of `s` there, and of `t` itself elsewhere.
    """
    ends = np.array(list(itertools.product(itertools.pairwise(edges), repeat=dims)))
    low, high = ends[..., 0], ends[..., 1]
    side = np.isinf(high).astype(float) - np.isinf(low)
    origin = np.where(side < 0, high, low)
    infinite = side != 0
    return np.stack([np.where(infinite, 0, low), np.where(infinite, 1, high), origin, side])


def _adaptive(
    terms: Callable, boxes: np.ndarray, tolerance: float, at_once: int
) -> tuple[np.ndarray, np.ndarray]:
    """The integrals over all boxes together, and their errors.

    Every box with more than its share of the allowed error is halved, and all halves are evaluated
    at once: one by one, as `scipy.integrate.cubature` goes about it, takes tens of times as long.
    """

    def swept(boxes: np.ndarray) -> np.ndarray:
        parts = np.array_split(boxes, range(at_once, boxes.shape[1], at_once), axis=1)
        return np.concatenate([_sweep(terms, part) for part in parts], axis=1)

    found = swept(boxes)
    for _ in range(1000):  # after which a box is 1e-301 wide
        total, error = found.sum(1)
        allowed = tolerance / 10 * (1 + np.abs(total))
        if (error <= allowed).all():
            return total, error
        large = (found[1] > allowed / boxes.shape[1]).any(-1)
        if not np.isfinite(total).all() or boxes.shape[1] + large.sum() > 6000:
            break
        halves = _halved(boxes[:, large])
        integrals, errors = swept(halves)
        # Beside a jump two rules may agree by chance, but then seldom with the box before, too.
        parts = integrals.reshape(-1, *found[0, large].shape)
        apart = np.abs(parts.sum(0) - found[0, large]) / len(parts)
        errors = np.maximum(errors, np.concatenate([apart] * len(parts)))
        boxes = np.concatenate([boxes[:, ~large], halves], axis=1)
        found = np.concatenate([found[:, ~large], [integrals, errors]], axis=1)
    raise ValueError(
        "no exact gradient: the quadrature does not converge to the tolerance of "
        f"{tolerance:.0e} (error estimate {error.max():.1e}): give break_points where "
        "f jumps or spikes, or a larger tolerance; or the integral does not exist"
    )


def _halved(boxes: np.ndarray) -> np.ndarray:
    """Each box cut in two along every axis; the first parts of all boxes come first."""
    for axis in range(boxes.shape[-1]):
        below, above = boxes.copy(), boxes.copy()
        below[1, :, axis] = above[0, :, axis] = boxes[:2, :, axis].mean(0)
        boxes = np.concatenate([below, above], axis=1)
    return boxes


def _sweep(terms: Callable, boxes: np.ndarray) -> np.ndarray:
    """Integrals over boxes, and what a finer and a coarser rule differ by, `[2, boxes, terms]`."""
    low, high, origin, side = boxes[:, :, None]
    nodes, weights = _rules(boxes.shape[-1])
    s = low + (high - low) * nodes
    t = np.where(side == 0, s, origin + side * (1 / s - 1))
    stretch = (np.where(side == 0, 1, s**-2) * (high - low)).prod(-1)
    values = terms(t.reshape(-1, t.shape[-1]), stretch.ravel()).reshape(*stretch.shape, -1)
    finer, coarser = np.moveaxis(weights @ values, 1, 0)
    return np.stack([finer, np.abs(finer - coarser)])


@functools.cache
def _rules(dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in the unit box, `[n, dims]`, and weights of a finer and a coarser rule, `[2, n]`."""
    nodes, weights = [], []
    for count in (21, 10):
        x, w = np.polynomial.legendre.leggauss(count)
        grid = np.meshgrid(*[(x + 1) / 2] * dims, indexing="ij")
        nodes.append(np.stack(grid, axis=-1).reshape(-1, dims))
        weights.append(functools.reduce(np.multiply.outer, [w / 2] * dims).ravel())
    return np.concatenate(nodes), block_diag(*weights)


def _with_error(one: ExactGradient, other: ExactGradient, tolerance: float) -> ExactGradient:
    """The first result, its error estimates widened by what the second makes of them."""

    def widened(a: Tensor, b: Tensor, error: Tensor, name: str) -> Tensor:
        apart = (a - b).abs()
        if (apart > tolerance * a.abs().clamp(min=1)).any():
            raise ValueError(
                f"no exact gradient: two quadratures of {name} differ by {apart.max():.1e}: give "
                "break_points where f jumps or spikes"
            )
        return 10 * (error + apart)

    return ExactGradient(
        gradient=one.gradient,
        error={
            name: widened(slope, other.gradient[name], one.error[name], f"the slope in {name}")
            for name, slope in one.gradient.items()
        },
        value=one.value,
        value_error=10 * (one.value_error + (one.value - other.value).abs()),
    )


def _middle_and_spread(pilot: Tensor) -> tuple[Tensor, Tensor]:
    """Median and about one standard deviation of samples, by entry."""
    middle = pilot.double().median(0).values
    deviation = (pilot.double() - middle).abs().median(0).values
    return middle, deviation.clamp(min=1e-300) * 1.5


def _coordinates(
    distribution: Distribution, middle: Tensor, spread: Tensor
) -> tuple[Tensor, Tensor, float, float]:
    """`origin`, `scale` and the limits of `t` in `z = origin + scale * t`."""
    support = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    is_mixture = hasattr(innermost(distribution), "component_distribution")
    ends = [
        None if bound is None else torch.as_tensor(bound, device=middle.device).double()
        for bound in (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    ]
    if is_mixture:
        if any(end is not None and (end != end.flatten()[0]).any() for end in ends):
            raise ValueError(
                "no exact gradient: the components of the mixture, or entries of its batch, have "
                "bounds of their own, where the density may jump"
            )
        ends = [None if end is None else end.flatten()[0] for end in ends]
    if any(end is not None and end.isinf().any() and not end.isinf().all() for end in ends):
        raise ValueError("no exact gradient: some entries of the batch have a bound, others none")
    lower, upper = (None if end is None or end.isinf().all() else end for end in ends)
    if lower is not None and upper is not None:
        return lower.expand_as(middle), (upper - lower).expand_as(middle), 0.0, 1.0
    if lower is not None:
        return lower.expand_as(middle), (middle - lower), 0.0, math.inf
    if upper is not None:
        return upper.expand_as(middle), (middle - upper), 0.0, math.inf
    if support is constraints.real or None not in ends:
        return middle, spread, -math.inf, math.inf
    raise ValueError(f"no exact gradient: there is no quadrature for a support of kind {support}")


def _check_by_differences(
    problem: _Problem,
    result: ExactGradient,
    direction: Parameters,
    integrate: Callable[[_Problem], ExactGradient],
    precision: float = 1e-6,
) -> None:
    """The gradient along a random direction is the slope of the integral itself.

    This sees what a derivative at fixed `z` cannot: a support, or a jump of `f`, that moves with
    the parameters; and a parameter that torch clamps, as it does probabilities at 0 and 1.
    """
    toward, sides = _direction(problem, direction)

    def quotient(step: float) -> tuple[float, float]:
        """The slope of the integral over a step, and how uncertain quadrature leaves it."""
        results = [integrate(problem.moved(toward, side * step)) for side in sides if side]
        results += [result] * (0 in sides)
        ahead, behind = results
        noise = sum(r.value_error.sum().item() for r in results)
        width = (max(sides) - min(sides)) * step
        sign = -1 if sides == (-1, 0) else 1
        return sign * (ahead.value - behind.value).sum().item() / width, noise / width

    parts = torch.stack([(result.gradient[k] * toward[k]).sum() for k in toward])
    slope = parts.sum().item()
    rounding = precision * sum((result.gradient[k] * toward[k]).abs().sum().item() for k in toward)
    seen, noise = quotient(1e-4)
    if abs(seen - slope) <= rounding + noise + 1e-8:
        return
    # Or the integral bends within the step: then a shorter one comes a hundred times closer.
    closer, noise = quotient(1e-5)
    bend = abs(seen - closer)
    if abs(closer - slope) <= rounding + noise + 1e-8 + bend / 5 and bend >= abs(seen - slope) / 3:
        return
    raise ValueError(
        f"no exact gradient: differentiating under the integral gives a slope of {slope:.6g}, "
        f"the integral itself changes with slope {closer:.6g}. Does the support, or a jump "
        "of f, move with the parameters, or is a probability so near 0 or 1 that torch clamps it?"
    )


def _direction(problem: _Problem, random: Parameters) -> tuple[Parameters, tuple[int, int]]:
    """A direction to move the parameters in, and the two sides on which that is allowed."""
    values = problem.parameters
    for additive in (True, False):  # failing that, zeros stay zero and small numbers small
        for sides in ((1, -1), (1, 0), (-1, 0)):
            toward = {
                k: random[k] * (v.abs().clamp(min=1e-2) if additive else v)
                for k, v in values.items()
            }
            try:
                return _gentle(problem, toward, sides), sides
            except ValueError:
                continue
    raise ValueError("no exact gradient: make_distribution refuses parameters nearby")


def _gentle(problem: _Problem, toward: Parameters, sides: tuple[int, int]) -> Parameters:
    """The direction, shortened until a step in it moves the density at a sample by little.

    Where a law is narrow, a step that goes by the size of a parameter, such as its place, is a long
    way for it. A density that no step is short enough for is random; then nothing is shortened.
    """
    before, shorter = problem.distribution.log_prob(problem.anchor), toward
    for _ in range(40):
        moved = (problem.moved(shorter, side * 1e-4).distribution for side in sides)
        if all(((q.log_prob(problem.anchor) - before).abs() < 0.01).all() for q in moved):
            return shorter
        shorter = {name: step / 4 for name, step in shorter.items()}
    return toward


# --- the exact gradient by weights that take no leading dimension ---------------------------------


def _exact_of_weights(
    integrand: Callable,
    make_distribution: MakeDistribution,
    parameters: Parameters,
    break_points: tuple[float, ...],
    tolerance: float,
) -> ExactGradient:
    """In float64 where the network and `f` allow it, else in the parameters' own dtype."""
    own = {name: value.detach() for name, value in parameters.items()}
    exact = {name: value.double() for name, value in own.items()}
    try:
        return _by_weights(integrand, make_distribution, exact, break_points, tolerance)
    except (RuntimeError, ValueError) as refused:
        if next(iter(own.values())).dtype == torch.float64:
            raise _no_answer(refused) from refused
    try:
        return _by_weights(integrand, make_distribution, own, break_points, tolerance)
    except RuntimeError as refused:
        raise _no_answer(refused) from refused


def _no_answer(reason: Exception) -> ValueError:
    if isinstance(reason, ValueError):
        return reason
    return ValueError(f"no exact gradient: make_distribution or f fails ({reason})")


def _by_weights(
    integrand: Callable,
    make_distribution: MakeDistribution,
    parameters: Parameters,
    break_points: tuple[float, ...],
    tolerance: float,
) -> ExactGradient:
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    distribution = _steady(make_distribution, leaves)
    if not distribution.support.is_discrete:
        return _by_chain_rule(integrand, distribution, leaves, break_points, tolerance)
    problem, _, direction = _pose(integrand, make_distribution, parameters, distribution)
    result = _sum_as_a_whole(problem)
    eps = torch.finfo(next(iter(parameters.values())).dtype).eps
    _check_by_differences(problem, result, direction, _sum_as_a_whole, max(1e-6, 1e5 * eps))
    return result


def _steady(make_distribution: MakeDistribution, parameters: Parameters) -> Distribution:
    """The distribution, which the same parameters give again."""
    with torch.random.fork_rng():
        one, other = (_built(make_distribution, parameters) for _ in range(2))
        if not isinstance(one, Distribution):
            raise TypeError(
                "make_distribution must return a torch.distributions.Distribution, got "
                f"{type(one).__name__}"
            )
        z = one.sample((16,))
    with torch.no_grad():
        if not torch.equal(one.log_prob(z), other.log_prob(z)):
            raise ValueError(
                "no exact gradient: make_distribution gives two distributions for the same "
                "parameters: put the network in eval mode, where it has no dropout"
            )
    return one


def _sum_as_a_whole(problem: _Problem) -> ExactGradient:
    """One backward pass for each chunk of the support, through density and `f` at fixed `z`."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in problem.parameters.items()}
    slopes = {name: torch.zeros_like(v, dtype=torch.float64) for name, v in leaves.items()}
    sizes = {name: torch.zeros_like(total) for name, total in slopes.items()}
    mass, value, weight = 0.0, 0.0, 0.0
    for z in _points(problem.distribution):
        density = _built(problem.make_distribution, leaves).log_prob(z).exp().double()
        f = problem.integrand(z, leaves).double()
        _refuse_nan(f, z)
        f = torch.where(density > 0, f, problem.level)  # where it is 0, f may be infinite
        total = (density * (f - problem.level)).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        for name, slope in zip(leaves, found, strict=True):
            if slope is not None:
                slopes[name] += slope
                sizes[name] += slope.abs()
        mass = mass + density.detach().sum(0)
        value = value + (density * f).detach().sum(0)
        weight = weight + (density * f).detach().abs().sum(0)
    # What rounding leaves of sums whose terms were computed in the parameters' dtype.
    eps = 100 * torch.finfo(next(iter(leaves.values())).dtype).eps
    if ((mass - 1).abs() > eps + 1e-6).any():
        raise ValueError(
            f"no exact gradient: the density sums to {mass.flatten()[0]:.6g} where it should to 1"
        )
    scale = max(total.abs().max() for total in sizes.values())
    return ExactGradient(
        gradient=slopes,
        error={name: eps * (size + scale) for name, size in sizes.items()},
        value=value,
        value_error=eps * weight,
    )


def _by_chain_rule(
    integrand: Callable,
    distribution: Distribution,
    leaves: Parameters,
    break_points: tuple[float, ...],
    tolerance: float,
) -> ExactGradient:
    """Quadrature by the distribution's own parameters, and their derivatives by the weights."""
    with torch.random.fork_rng():
        values = integrand(distribution.sample((2,)), leaves)
    if isinstance(values, Tensor) and values.requires_grad:
        direct = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
        if any(slope is not None for slope in direct):
            raise ValueError(
                "no exact gradient: f depends on the weights itself, and quadrature of that needs "
                "parameters with an extra leading dimension"
            )
    try:
        own = parameters_of(distribution)
    except ValueError as reason:
        raise ValueError(f"no exact gradient: {reason}") from reason
    wanted = {name: value for name, value in own.items() if value.requires_grad}
    result = exact_gradient(
        lambda z: integrand(z, leaves),
        lambda **values: rebuilt(distribution, {**own, **values}),
        {name: value.detach() for name, value in wanted.items()},
        break_points,
        tolerance,
    )

    def pulled_back(cotangents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = torch.autograd.grad(
            list(wanted.values()),
            list(leaves.values()),
            [cotangents[name].to(value) for name, value in wanted.items()],
            retain_graph=True,
            materialize_grads=True,
        )
        return {name: part.double() for name, part in zip(leaves, found, strict=True)}

    error = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in leaves.items()}
    for name, value in wanted.items():
        for entry in range(value.numel()):  # |J| times the error, an entry at a time
            one = {k: torch.zeros_like(v) for k, v in wanted.items()}
            one[name].view(-1)[entry] = result.error[name].flatten()[entry]
            for leaf, part in pulled_back(one).items():
                error[leaf] += part.abs()
    gradient = pulled_back(result.gradient)
    eps = 100 * torch.finfo(next(iter(leaves.values())).dtype).eps
    return ExactGradient(
        gradient=gradient,
        error={name: error[name] + eps * part.abs() for name, part in gradient.items()},
        value=result.value,
        value_error=result.value_error,
    )


# --- several estimators beside the truth ---------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One estimator and one parameter of a `Comparison`, or all of them together.

    Attributes:
        estimator, parameter: their names; for all parameters together how many entries they have.
        bias, bias_error: of the entry whose bias is largest against its standard error, and that
            standard error; the bias is None where the truth is not known.
        biased: whether that bias exceeds five standard errors (more for many entries and for few
            replicates), the error bound of the truth and rounding together; None where the truth
            is not known. The standard error is counted as if the variance were five of its own
            standard errors larger, so that a handful of rare and large estimates is not taken for
            all of them. A true estimator whose estimates are about normal is called biased once
            in two million rows, a skewed one more often, and an event so rare that no replicate
            has it looks like bias: take more replicates. For rounding ten units in the last place
            are allowed, of the truth, of one estimate and of `f(z) ∇log q(z)`, the last two as
            their root mean square. All three follow `f` when it is rescaled.
        squared_bias: summed over the entries, and 0 unless biased; None where the truth is not
            known.
        variance, variance_error: of one estimate, summed over the entries, and its standard error
            if entries were independent.
        evaluations, seconds: of `f` and of time, for each estimate.

    Used in chapters 1, 2, 3, 5 and 7 through `compare`.

    >>> from torch.distributions import Normal
    >>> from reparam.estimators import Pathwise
    >>> [row] = compare(
    ...     {"pathwise": Pathwise()},
    ...     torch.sign,
    ...     lambda loc: Normal(loc, 1.0),
    ...     {"loc": torch.tensor(0.5)},
    ...     break_points=[0],
    ... ).rows
    >>> row.biased, round(row.bias, 3), row.variance  # a step has no slope: always 0, and wrong
    (True, -0.704, 0.0)
    """

    estimator: str
    parameter: str
    bias: float | None
    bias_error: float
    biased: bool | None
    squared_bias: float | None
    variance: float
    variance_error: float
    evaluations: float
    seconds: float

    @property
    def variance_time(self) -> float | None:
        """Variance × seconds, the fair price among unbiased estimators; None for a biased one."""
        return None if self.biased else self.variance * self.seconds

    @property
    def error_time(self) -> float | None:
        """Mean squared error × seconds, the fair price among all; None without a truth."""
        if self.squared_bias is None:
            return None
        return (self.variance + self.squared_bias) * self.seconds


_ROWS = 4  # parameters up to which each has a row and a panel of its own

# As 12 and 5 have no common divisor, 60 estimators pass before a pair comes again.
_MARKERS = "os^Dv<>P*Xhp"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#6B6B6B")  # those of the book's figures


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns: `rows`, the `truth`, a table when shown, a picture by `plot()`.

    Attributes:
        rows: a `Row` for every estimator and parameter.
        totals: a `Row` for every estimator, over all parameters. Table and picture show them
            instead of `rows` where there are more than four parameters.
        truth: the exact gradient by parameter name, or None.
        note: why there is no truth, or an empty string.
        replicates: behind every row.

    Used in chapters 1, 2, 3, 5 and 7 through `compare`.

    >>> from torch.distributions import Normal
    >>> from reparam.estimators import Pathwise
    >>> parameters = {"loc": torch.tensor(1.0), "scale": torch.tensor(1.0)}
    >>> table = compare({"pathwise": Pathwise()}, lambda z: 3 * z, Normal, parameters)
    >>> [row.parameter for row in table.rows], [row.parameter for row in table.totals]
    (['loc', 'scale'], ['2 entries'])
    >>> round(table.truth["loc"].item(), 6)
    3.0
    """

    rows: list[Row]
    totals: list[Row]
    truth: dict[str, Tensor] | None
    note: str
    replicates: int

    _HEADER = (
        "estimator",
        "parameter",
        "bias ± s.e.",
        "verdict",
        "variance ± s.e.",
        "evaluations",
        "time",
        "variance × time",
        "error² × time",
    )

    def _shown(self) -> list[Row]:
        return self.totals if len(self.rows) > _ROWS * len(self.totals) else self.rows

    def _cells(self) -> list[tuple[str, ...]]:
        verdicts = {None: "unknown", True: "biased", False: "no bias seen"}
        return [
            (
                row.estimator,
                row.parameter,
                "unknown" if row.bias is None else f"{row.bias:+.2g} ± {row.bias_error:.1g}",
                verdicts[row.biased],
                f"{row.variance:.3g} ± {row.variance_error:.1g}",
                f"{row.evaluations:g}",
                _time(row.seconds),
                _time(row.variance_time),
                _time(row.error_time),
            )
            for row in self._shown()
        ]

    def __str__(self) -> str:
        table = [self._HEADER, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join([*lines, self._caption()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(tag: str, cells: tuple[str, ...]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(row("td", cells) for cells in self._cells())
        return (
            f"<table><caption>{html.escape(self._caption())}</caption>"
            f"<thead>{row('th', self._HEADER)}</thead><tbody>{body}</tbody></table>"
        )

    def _caption(self) -> str:
        caption = f"{self.replicates} replicates; time is that of one estimate in the batch."
        if self._shown() is self.totals:
            caption += " Bias is that of the entry with most of it, variance that of all entries."
        return f"{caption} No bias: {self.note}" if self.note else caption

    def plot(self, price: str = "time"):
        """Draw bias, with an interval of two standard errors, against variance × time.

        Biased estimators have hollow markers, one without variance stands at the left. Where some
        biases are more than ten times what the unbiased estimators leave open, the axis is linear
        in a gray band that holds these, and logarithmic beyond.

        Args:
            price: `"time"`, or `"evaluations"` of `f`, which are the same on every machine.

        Returns:
            The matplotlib figure, one panel for each parameter, or one for more than four.

        Raises:
            ValueError: if the truth is not known, or `price` is neither of the two.
        """
        if price not in ("time", "evaluations"):
            raise ValueError(f"price must be 'time' or 'evaluations', got {price!r}")
        if self.truth is None:
            raise ValueError(f"nothing to plot a bias against: {self.note}")
        import matplotlib.pyplot as plt

        shown = self._shown()
        parameters = list(dict.fromkeys(row.parameter for row in shown))
        columns = min(2, len(parameters))
        lines = math.ceil(len(parameters) / columns)
        legend = math.ceil(len(self.totals) / 3)
        figure, panels = plt.subplots(
            lines,
            columns,
            squeeze=False,
            figsize=(7.0, 3.2 * lines + 0.25 * legend),
            layout="constrained",
        )
        for panel in panels.flat[len(parameters) :]:
            panel.remove()
        for panel, parameter in zip(panels.flat, parameters, strict=False):
            _draw(panel, [row for row in shown if row.parameter == parameter], price)
            panel.set_title(f"gradient with respect to {parameter}")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
        return figure


def _draw(panel, rows: list[Row], price: str) -> None:
    """Bias against variance × price: a marker and a color for each estimator."""
    timed = price == "time"
    prices = [row.variance * (row.seconds if timed else row.evaluations) for row in rows]
    least = min((price for price in prices if price > 0), default=1e-9)
    places = [max(price, least / 10) for price in prices]
    whole = [math.floor(math.log10(min(places) / 1.5)), math.ceil(math.log10(max(places) * 1.5))]
    panel.set(
        xscale="log",
        xlim=[10.0**exponent for exponent in whole],  # so that two decades at least have a label
        xlabel=f"variance × {'time of one estimate (s)' if timed else 'evaluations of f'}",
        ylabel="bias, ± 2 s.e.",
    )
    panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    # A linear axis that shows the largest bias would flatten the intervals of the unbiased ones.
    reach = [abs(row.bias) + 2 * row.bias_error for row in rows]
    linear = max((size for size, row in zip(reach, rows, strict=True) if not row.biased), default=0)
    if 0 < linear < max(reach) / 10:
        panel.set_yscale("symlog", linthresh=linear, linscale=2)
        panel.axhspan(-linear, linear, color="black", alpha=0.06, linewidth=0)
        panel.set_ylabel("bias, ± 2 s.e. (band: linear)")
    panel.axhline(0, color="black", linewidth=1)
    for row, place, marker, color in zip(
        rows, places, itertools.cycle(_MARKERS), itertools.cycle(_COLORS), strict=False
    ):
        panel.errorbar(
            place,
            row.bias,
            yerr=2 * row.bias_error,
            marker=marker,
            color=color,
            markerfacecolor="white" if row.biased else color,
            markersize=7,
            linestyle="none",
            capsize=4,
            clip_on=False,
            label=f"{row.estimator}, biased" if row.biased else row.estimator,
        )


def compare(
    estimators: Mapping[str, Callable],
    f: Callable,
    make_distribution: MakeDistribution,
    parameters: Parameters,
    num_samples: int = 1,
    replicates: int = 1000,
    per_replicate: bool = False,
    break_points: Iterable[float] = (),
    truth: Mapping[str, Tensor] | None = None,
) -> Comparison:
    """Bias, variance and price of several estimators of one gradient.

    What takes more than a second shows its progress, unless `TQDM_DISABLE` is set.

    Args:
        estimators: by the names that the table shall show.
        f, make_distribution, parameters, num_samples, replicates, per_replicate: as for
            `measure`.
            With `per_replicate` the truth too takes parameters as they are, such as the weights
            of a network.
        break_points: as for `exact_gradient`, which supplies the truth.
        truth: the exact gradient by parameter name, where you know it better. Where neither you
            nor `exact_gradient` does, the table says so and leaves the bias open.

    Raises:
        TypeError, ValueError: as `measure` does, naming the estimator; if `truth` has not the
            names and shapes of the parameters, or is not finite.

    Used in chapters 1, 2, 3, 5 and 7. Source: our own.

    >>> from torch.distributions import Normal
    >>> from reparam.estimators import Pathwise, ScoreFunction
    >>> _ = torch.manual_seed(0)
    >>> table = compare(
    ...     {"pathwise": Pathwise(), "score function": ScoreFunction()},
    ...     lambda z: z**2,
    ...     lambda loc: Normal(loc, 1.0),
    ...     {"loc": torch.tensor(1.0)},
    ...     replicates=10_000,
    ... )
    >>> [row.biased for row in table.rows]
    [False, False]

    On the weights of an encoder:

    >>> from torch.distributions import Bernoulli, Independent
    >>> encoder, x = torch.nn.Linear(2, 1), torch.ones(3, 2)
    >>> weights = dict(encoder.named_parameters())
    >>> table = compare(
    ...     {"score function": ScoreFunction()},
    ...     lambda b: (b - 0.45).square().squeeze(-1),
    ...     lambda **w: Independent(
    ...         Bernoulli(logits=torch.func.functional_call(encoder, w, (x,))), 1
    ...     ),
    ...     weights,
    ...     replicates=100,
    ...     per_replicate=True,
    ... )
    >>> table.totals[0].parameter, table.totals[0].biased
    ('3 entries', False)
    """
    if not isinstance(estimators, Mapping) or not estimators:
        raise TypeError(f"estimators must be a dict by name, got {type(estimators).__name__}")
    for name in estimators:
        if not isinstance(name, str):
            raise TypeError(f"the names of estimators must be strings, got {name!r}")
    _check_parameters(parameters)
    note, error = "", {name: torch.zeros_like(value) for name, value in parameters.items()}
    if truth is None:
        try:
            exact = exact_gradient(
                f, make_distribution, parameters, break_points, per_replicate=per_replicate
            )
            truth, error = exact.gradient, exact.error
        except ValueError as reason:
            if not (per_replicate or str(reason).startswith("no exact gradient")):
                raise
            note = str(reason)
    else:
        _check_truth(truth, parameters)
    sizes = _sizes(f, make_distribution, parameters, per_replicate)
    rows, totals = [], []
    steps = len(estimators) * replicates
    with tqdm(total=steps, delay=1, leave=False, disable=bars_are_off(), unit="replicate") as bar:
        for name, estimator in estimators.items():
            bar.set_description(name, refresh=False)
            try:
                measured = _measure(
                    estimator,
                    f,
                    make_distribution,
                    parameters,
                    num_samples,
                    replicates,
                    per_replicate,
                    advance=bar.update,
                )
            except (TypeError, ValueError) as problem:
                raise type(problem)(f"{name}: {problem}") from problem
            rows += [_row(name, p, [p], measured, truth, error, sizes) for p in parameters]
            entries = f"{sum(value.numel() for value in parameters.values())} entries"
            totals.append(_row(name, entries, list(parameters), measured, truth, error, sizes))
    return Comparison(rows, totals, None if truth is None else dict(truth), note, replicates)


def _check_truth(truth: Mapping[str, Tensor], parameters: Parameters) -> None:
    if not isinstance(truth, Mapping):
        raise TypeError(
            "truth must be a dict of tensors by name, as exact_gradient(...).gradient is, got "
            f"{type(truth).__name__}"
        )
    if set(truth) != set(parameters):
        raise ValueError(
            f"truth must have the parameters {sorted(parameters)}, got {sorted(truth)}"
        )
    check_finite(**{f"truth[{name!r}]": value for name, value in truth.items()})
    for name, value in truth.items():
        if value.shape != parameters[name].shape:
            raise ValueError(
                f"truth[{name!r}] must have the shape of the parameter, "
                f"{list(parameters[name].shape)}, got {list(value.shape)}"
            )


def _sizes(
    f: Callable, make_distribution: MakeDistribution, parameters: Parameters, per_replicate: bool
) -> Parameters:
    """The root mean square of `f(z) ∇log q(z)`, of which the gradient is the mean.

    The rounding of `f`, which may be large where its gradient is small, comes in through it.
    """
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            scores = _measure(
                ScoreFunction(),
                f,
                make_distribution,
                parameters,
                num_samples=1,
                replicates=32,
                per_replicate=per_replicate,
                advance=lambda count: None,
            )
    except (NotImplementedError, TypeError, ValueError):  # there is no density, or f is at fault
        return {name: torch.zeros_like(value) for name, value in parameters.items()}
    return _root_mean_square(scores)


def _root_mean_square(measured: Measurement) -> dict[str, Tensor]:
    """Of one estimate, in float64."""
    return {
        name: (mean.double().square() + measured.variance[name]).sqrt()
        for name, mean in measured.mean.items()
    }


def _row(
    name: str,
    parameter: str,
    parts: list[str],
    measured: Measurement,
    truth: Parameters | None,
    truth_error: Parameters,
    sizes: Parameters,
) -> Row:
    """The row of the parameters `parts`, whose entries stand side by side."""

    def side_by_side(values: Parameters) -> Tensor:
        return torch.cat([values[part].flatten() for part in parts])

    mean, spread = side_by_side(measured.mean), side_by_side(measured.standard_error)
    variance, variance_error = map(
        side_by_side, (measured.variance, measured.variance_standard_error)
    )
    bias, biased, squared, worst = None, None, None, spread.argmax()
    if truth is not None:
        exact = side_by_side(truth).to(mean.device).double()
        difference = mean.double() - exact
        rounded = exact.abs() + side_by_side(sizes) + side_by_side(_root_mean_square(measured))
        rounding = 10 * torch.finfo(mean.dtype).eps * rounded
        uncertain = side_by_side(truth_error).to(mean.device).double()
        # Few large estimates make the variance uncertain, and look small where it came out small.
        doubt = torch.where(variance_error.isfinite(), variance_error, variance)  # its most
        most = ((variance + 5 * doubt) / measured.replicates).sqrt()
        limit = _deviations(len(mean), measured.replicates) * most + uncertain + rounding
        worst = (difference.abs() / limit).argmax()
        bias = difference[worst].item()
        biased = bool((difference.abs() > limit).any())
        # The square of a measured bias is too large by the variance of the mean.
        excess = (difference.square() - spread.square()).clamp(min=0)
        squared = excess.sum().item() if biased else 0.0
    return Row(
        estimator=name,
        parameter=parameter,
        bias=bias,
        bias_error=spread[worst].item(),
        biased=biased,
        squared_bias=squared,
        variance=variance.sum().item(),
        variance_error=variance_error.square().sum().sqrt().item(),
        evaluations=measured.evaluations,
        seconds=measured.seconds,
    )


def _deviations(entries: int, replicates: int) -> float:
    """Standard errors that the worst of so many entries exceeds as rarely as one normal one does 5.

    They are Student's, as the deviation is that of so many replicates.
    """
    return float(-stdtrit(replicates - 1, ndtr(-5) / entries))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
