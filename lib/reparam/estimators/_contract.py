"""What every estimator shares: the checks of a call, and gradients that are attached to a value."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
    constraints,
)

from reparam._checks import check_count, holds_nan, is_infinite
from reparam._functions import Function, below, graph_of, is_plain, wide_dtype

Integrand = Callable[[Tensor], Tensor]


def name_of(distribution: Distribution) -> str:
    """`Independent(Bernoulli)` for an `Independent` of a `Bernoulli`."""
    if isinstance(distribution, Independent):
        return f"Independent({name_of(distribution.base_dist)})"
    return type(distribution).__name__


def innermost(distribution: Distribution) -> Distribution:
    """The distribution inside all layers of `Independent`."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def beside(tensor: Tensor, ndim: int) -> Tensor:
    """`tensor` with dimensions of size 1 behind its own, `ndim` in all."""
    return tensor[(..., *(None,) * (ndim - tensor.ndim))]


def widened(estimate: Callable) -> Callable:
    """An estimator's `__call__`, in float32 where discrete variables come in a 16-bit type.

    There the probability of a logit of 5 rounds to 1, and its gradient to 0. `f` gets samples of
    the type that came.
    """

    @functools.wraps(estimate)
    def call(self, f, distribution, num_samples=1):
        base = innermost(distribution)
        is_known = isinstance(base, Bernoulli | Categorical | OneHotCategorical)
        if not (is_known and base._param.dtype.itemsize < 4):
            return estimate(self, f, distribution, num_samples)
        check_call(f, distribution, num_samples)
        narrow, came = base._param.dtype, []

        def in_both(z):
            values = f(z.to(narrow) if z.is_floating_point() else z)
            if not (isinstance(values, Tensor) and values.is_floating_point()):
                return values  # which is refused
            came.append(values.dtype)
            return values.to(wide_dtype(values.dtype))

        wide = {name: p.float() for name, p in parameters_of(distribution).items()}
        return estimate(self, in_both, rebuilt(distribution, wide), num_samples).to(came[0])

    return call


def is_discrete(distribution: Distribution) -> bool:
    """Whether its samples are known to have no path, with `rsample` or without."""
    try:
        return distribution.support.is_discrete
    except NotImplementedError:
        return False


def refuse_class(name: str, given: object, kind: str) -> None:
    """Argument `name` is to be one of a kind, such as "an estimator", and not its class."""
    if isinstance(given, type):
        of = given.__name__
        raise TypeError(f"{name} must be {kind}, got the class {of}: use {of}()")


def check_estimator(estimator: object) -> None:
    """What is to be called as `estimator(f, distribution, num_samples)`."""
    refuse_class("estimator", estimator, "an estimator")
    if not callable(estimator):
        raise TypeError(f"estimator must be callable, got {type(estimator).__name__}")


def check_estimates(estimates: Tensor, batch_shape: torch.Size) -> None:
    """What an estimator returned has one value for each entry of the batch."""
    if not isinstance(estimates, Tensor) or estimates.shape != batch_shape:
        shape = tuple(estimates.shape) if isinstance(estimates, Tensor) else "no shape"
        raise ValueError(
            "an estimator must return one estimate for each entry of the distribution's "
            f"batch_shape {tuple(batch_shape)}, got {type(estimates).__name__} of {shape}: average "
            "over the samples, the first dimension of f's values, alone"
        )


def refuse_forward_mode(name: str) -> None:
    """For estimator `name`, whose tangent would be 0: it asks what wants a gradient."""
    if torch.autograd.forward_ad._current_level >= 0:
        raise NotImplementedError(
            f"{name} has no derivatives in forward mode (torch.func.jvp, jacfwd): use "
            "torch.func.grad, jacrev or backward()"
        )


def support_of(distribution: Distribution) -> constraints.Constraint:
    """Where its samples lie."""
    try:
        return distribution.support
    except NotImplementedError:
        raise ValueError(
            f"{name_of(distribution)} does not say where its samples lie: give it a property "
            "`support`, such as torch.distributions.constraints.real"
        ) from None


def modules_in(estimator: object) -> list[nn.Module]:
    """The module that an estimator is, or those that it holds: a baseline, an outer estimator.

    They are looked for in the fields of dataclasses, in the attributes of modules, and in lists,
    tuples and dicts of either. What a function refers to stays out of sight. A part of a module
    stands beside it.
    """
    found, seen, todo = [], set(), [estimator]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, nn.Module):
            found.append(part)
            todo += vars(part).values()
        elif isinstance(part, Mapping):
            todo += part.values()
        elif isinstance(part, list | tuple):
            todo += part
        elif is_dataclass(part) and not isinstance(part, type):
            todo += [getattr(part, field.name, None) for field in fields(part)]
    return found


def check_call(f: Integrand, distribution: Distribution, num_samples: int) -> None:
    """The arguments that every estimator is called with."""
    if not callable(f):
        raise TypeError(f"f must be a function of the samples, got {type(f).__name__}")
    if not isinstance(distribution, Distribution):
        raise TypeError(
            "distribution must be a torch.distributions.Distribution, got "
            f"{type(distribution).__name__}"
        )
    check_count("num_samples", num_samples)
    if 0 in distribution.batch_shape or 0 in distribution.event_shape:
        raise ValueError(
            f"the distribution is empty: batch_shape {tuple(distribution.batch_shape)}, "
            f"event_shape {tuple(distribution.event_shape)}"
        )


def values_of(
    f: Integrand,
    z: Tensor,
    distribution: Distribution,
    called: str = "f",
    finite_for: str | None = None,
) -> Tensor:
    """`f(z)`, checked: a floating-point tensor of shape `[n, *batch_shape]` without NaN.

    `called` is what the caller knows `f` by. Neither is infinity let in where `finite_for` names
    an estimator that makes a gradient of the values.
    """
    version = _version(z)
    values = f(z)
    if version != _version(z):
        raise ValueError(
            f"{called} changes its samples in place, and they are needed as they were drawn: "
            "use b - 0.45 instead of b.sub_(0.45) or b -= 0.45"
        )
    wanted = (len(z), *distribution.batch_shape)
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{called} must return a tensor of shape {wanted}, got {type(values).__name__}"
        )
    if values.shape != wanted:
        raise ValueError(
            f"{called} must return one value for each sample, shape {wanted} for samples of shape "
            f"{tuple(z.shape)}, got shape {tuple(values.shape)}: sum event dimensions inside it, "
            "and declare variables that it mixes as one event with Independent(distribution, 1)"
        )
    if not values.is_floating_point():
        raise TypeError(
            f"{called} must return floating-point values, got {values.dtype}: use .float()"
        )
    if values.device != z.device:
        raise ValueError(
            f"{called} must return values on {z.device}, where z is, got {values.device}"
        )
    is_wrong = is_infinite if finite_for else holds_nan
    if is_wrong(values):
        if holds_nan(values):
            count = int(values.isnan().sum())
            raise ValueError(f"{called} returned NaN for {count} of {values.numel()} samples")
        check_finite(finite_for, values)
    return values


def _version(z: Tensor) -> int | None:
    """How often `z`, or what it is a view of, was changed in place; None where nobody counts."""
    return z._version if is_plain() and not z.is_inference() else None


def check_differentiable(
    name: str, values: Tensor, z: Tensor, instead: str, called: str = "f"
) -> None:
    """The value of `f` depends on the sample through a graph, which estimator `name` follows."""
    if z.requires_grad and not _depends_on(values, z):
        raise ValueError(
            f"the value of {called} does not depend on the sample through a graph, so {name} has "
            "no gradient to follow: look for .detach(), .item(), torch.no_grad() or a "
            f"comparison such as z > 0 in {called}; for a function without a derivative use "
            f"{instead}"
        )


def _depends_on(values: Tensor, z: Tensor) -> bool:
    """Whether the graph of `values` leads back to `z`."""
    if values is z or torch.compiler.is_compiling():
        return True  # the tracer has no graph to walk
    # A leaf stands in the graph as the node that accumulates its gradient.
    goal = z.grad_fn if z.grad_fn is not None else z.view_as(z).grad_fn.next_functions[0][0]
    return goal in graph_of(values)


def discrete_logits(
    name: str, distribution: Distribution, kinds: Sequence[type] = (Bernoulli, OneHotCategorical)
) -> tuple[Tensor, type]:
    """Logits of shape `[*batch_shape, *variables]`, and which of the kinds the variables are.

    For estimator `name`, which takes variables of these kinds, alone or inside `Independent`.
    Classes have a last dimension of logits, one number for each of them.
    """
    base = innermost(distribution)
    for kind in kinds:
        if isinstance(base, kind):
            return base.logits, kind
    *others, last = (kind.__name__ for kind in kinds)
    advice = (
        "use OneHotCategorical(logits=...), whose samples can be relaxed"
        if isinstance(base, Categorical)
        else "use Pathwise if it has rsample, else ScoreFunction"
    )
    raise ValueError(
        f"{name} needs {', '.join(others)} or {last} variables, alone or inside Independent, "
        f"got {name_of(distribution)}: {advice}"
    )


# --- samples, and how likely they are ------------------------------------------------------------

_TORCH = {
    name: {kind: getattr(kind, name) for kind in (Independent, Bernoulli, Normal)}
    for name in ("sample", "log_prob")
}
# Noise, and the sample that it becomes.
_FROM_NOISE = {
    Bernoulli: (torch.rand, lambda q, noise: below(noise, q.probs.detach())),
    Normal: (torch.randn, lambda q, noise: q.loc.detach() + q.scale.detach() * noise),
}


def draw(distribution: Distribution, num_samples: int) -> Tensor:
    """`distribution.sample((num_samples,))`; of bits in a third of its time on a CPU.

    A bit is 1 where a uniform number lies below its probability, which float32 makes right to
    6e-8. `torch.bernoulli` does just that, number by number.
    """
    bits = _by_torch(distribution, "sample", Bernoulli)
    probs = None if bits is None else _probabilities(bits)
    if probs is None or holds_nan(probs):  # torch refuses NaN
        return sampled(distribution, (num_samples,))
    noise = uniform_noise((num_samples, *probs.shape), dtype=probs.dtype, device=probs.device)
    return below(noise, probs).to(probs.dtype)


def _probabilities(bits: Bernoulli) -> Tensor:
    """`bits.probs` without a graph, which torch would make with it, in twice the time."""
    known = vars(bits).get("probs")
    return bits.logits.detach().sigmoid() if known is None else known.detach()


def uniform_noise(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uniform on [0, 1), in float32 at least, where it lies on a grid of 2**-24."""
    wide = wide_dtype(dtype)
    return torch.rand(shape, dtype=wide, device=device)


def sampled(distribution: Distribution, shape: Sequence[int]) -> Tensor:
    """`distribution.sample(shape)`, a tensor that no transform has cached.

    What `sample` leaves in a cache has no graph, and `log_prob` would find it there.
    """
    z = distribution.sample(shape)
    return z.clone() if isinstance(innermost(distribution), TransformedDistribution) else z


def draw_together(distributions: Sequence[Distribution], shape: Sequence[int] = ()) -> list[Tensor]:
    """A draw from each of several distributions of one kind and shape, from the same noise."""
    kind = type(innermost(distributions[0]))
    bases = [_by_torch(q, "sample", kind) for q in distributions]
    first = bases[0]
    if kind not in _FROM_NOISE or first is None:
        return _from_one_state(distributions, shape)
    noise, sample = _FROM_NOISE[kind]
    like = first.mean
    wide = wide_dtype(like.dtype)
    drawn = noise((*shape, *first.batch_shape), dtype=wide, device=like.device)
    return [sample(q, drawn).to(like.dtype) for q in bases]


def _from_one_state(distributions: Sequence[Distribution], shape: Sequence[int]) -> list[Tensor]:
    """Draws of each one from the same state of the generator, which ends behind the last."""
    parameters = parameters_of(distributions[0]).values()
    devices = [p.device for p in parameters if p.device.type == "cuda"][:1]
    draws = []
    for distribution in distributions[:-1]:
        with torch.random.fork_rng(devices=devices):
            draws.append(distribution.sample(shape))
    return [*draws, distributions[-1].sample(shape)]


def log_ratio(distribution: Distribution, z: Tensor) -> Tensor:
    """`log q(z) - stop_gradient(log q(z))`: 0, with every derivative of the log-density.

    For samples that `draw` gave, so that of bits nothing is checked, nor computed but the score.
    """
    bits = _by_torch(distribution, "log_prob", Bernoulli)
    if bits is None:
        log_prob = finite_density(distribution.log_prob(z), distribution)
        return log_prob - log_prob.detach()
    logits = bits.logits
    return _LogRatioOfBits.call(logits, z, len(bits.batch_shape) - len(distribution.batch_shape))


def finite_density(log_prob: Tensor, distribution: Distribution) -> Tensor:
    """`log_prob`, of which no derivative is asked where it is infinite."""
    if log_prob.requires_grad and is_infinite(log_prob):
        count = int((~log_prob.isfinite()).sum())
        raise ValueError(
            f"log q of {name_of(distribution)} is infinite or NaN at {count} of "
            f"{log_prob.numel()} samples, which rounding has put on an edge of the support: use "
            "float64, or parameters that keep away from its edges"
        )
    return log_prob


class _LogRatioOfBits(Function):
    @staticmethod
    def forward(logits, z, events):
        return z.new_zeros(z.shape[: z.ndim - events])

    @staticmethod
    def setup_context(ctx, inputs, output):
        logits, z, _ = inputs
        ctx.save_for_backward(logits, z)

    @staticmethod
    def backward(ctx, slope):
        logits, z = ctx.saved_tensors
        return (beside(slope, z.ndim) * (z - logits.sigmoid())).sum(0), None, None


def _by_torch(distribution: Distribution, method: str, kind: type) -> Distribution | None:
    """What is inside of `Independent`, if of this kind and if the method is that of torch."""
    known = _TORCH[method]
    while type(distribution) is Independent and Independent.__dict__[method] is known[Independent]:
        distribution = distribution.base_dist
    is_torch = type(distribution) is kind and kind.__dict__.get(method) is known.get(kind, 0)
    return distribution if is_torch else None


# --- distributions taken apart -------------------------------------------------------------------


def parameters_of(distribution: Distribution) -> dict[str, Tensor]:
    """The tensors that the innermost distribution was made from, by constructor name.

    Each has its full shape, the batch dimensions of the innermost distribution (which layers of
    `Independent` count as event) and then its own. Of `probs` and `logits` it is the one that was
    given; a multivariate normal is `loc` and `scale_tril`, however it was made.

    Raises:
        ValueError: if the distribution cannot be taken apart, as a mixture cannot.
    """
    base = innermost(distribution)
    return {
        name: _expanded(getattr(base, name), base, constraint.event_dim)
        for name, constraint in constraints_of(base).items()
    }


def rebuilt(distribution: Distribution, parameters: Mapping[str, Tensor]) -> Distribution:
    """The same distribution with other parameters, those that `parameters_of` names.

    Other arguments, such as the `total_count` of a Binomial, and layers of `Independent` are kept.
    The parameters may have further dimensions in front, which the batch shape then gains. They
    are not validated.
    """
    if isinstance(distribution, Independent):
        base = rebuilt(distribution.base_dist, parameters)
        return Independent(base, distribution.reinterpreted_batch_ndims, validate_args=False)
    kept = {}
    for name, is_required in _arguments(distribution).items():
        if name not in distribution.arg_constraints or _is_kept(distribution, name):
            attribute = name if hasattr(distribution, name) else f"_{name}"  # `_lims`
            if hasattr(distribution, attribute):
                kept[name] = getattr(distribution, attribute)
            elif is_required:
                raise _cannot_take_apart(distribution)
    return type(distribution)(**parameters, **kept, validate_args=False)


def constraints_of(distribution: Distribution) -> dict[str, constraints.Constraint]:
    """The constraints of the parameters that `parameters_of` lists, in the constructor's order."""
    base = innermost(distribution)
    found = base.arg_constraints
    names = [n for n in _arguments(base) if n in found and not _is_kept(base, n)]
    if "probs" in names and "logits" in names:
        names.remove("logits" if _given(base) == "probs" else "probs")
    if "scale_tril" in names:
        names = [n for n in names if n not in ("covariance_matrix", "precision_matrix")]
    if not names:
        raise _cannot_take_apart(base)
    return {name: found[name] for name in names}


def _arguments(base: Distribution) -> dict[str, bool]:
    """The constructor's arguments, and whether it requires them (`inspect` is slow).

    Without `self`, the first, and `validate_args`.
    """
    constructor = type(base).__init__
    names = constructor.__code__.co_varnames[: constructor.__code__.co_argcount]
    required = len(names) - len(constructor.__defaults__ or ())
    return {n: i < required for i, n in enumerate(names) if i > 0 and n != "validate_args"}


def _is_kept(base: Distribution, name: str) -> bool:
    """Whole numbers, such as a `total_count`, are no parameters to differentiate."""
    return base.arg_constraints[name].is_discrete


def _given(base: Distribution) -> str:
    """Which of `probs` and `logits` was given: torch stores that one first."""
    while not {"probs", "logits"} & set(vars(base)):
        inner = vars(base).get("_categorical", vars(base).get("base_dist"))
        if inner is None:
            raise _cannot_take_apart(base)
        base = inner
    return next(name for name in vars(base) if name in ("probs", "logits"))


def _expanded(parameter: Tensor, base: Distribution, event_dim: int) -> Tensor:
    parameter = torch.as_tensor(parameter)
    shape = (*base.batch_shape, *parameter.shape[parameter.ndim - event_dim :])
    # Only LogisticNormal has more dimensions than its constraint says, and has them in full.
    return parameter if parameter.ndim > len(shape) else parameter.expand(shape)


def _cannot_take_apart(base: Distribution) -> ValueError:
    return ValueError(
        f"the parameters of {name_of(base)} cannot be told from its constructor: use Pathwise if "
        "it has rsample, else ScoreFunction"
    )


# --- gradients that are attached ---------------------------------------------------------------


def attach(name: str, value: Tensor, source: Tensor, gradient: Tensor) -> Tensor:
    """`value`, with `gradient` as its derivative with respect to `source`, in addition to its own.

    Args:
        name: of the estimator, for the error of a second derivative.
        value: shape `[*batch]`; whatever it depends on already, it goes on depending on.
        source: shape `[*batch, ...]`, such as the logits of the distribution.
        gradient: the shape of `source`; each entry is the derivative of the value of its own entry
            of the batch. It is taken as a constant.

    The first derivative is right; a second one raises `NotImplementedError` instead of being wrong.
    """
    check_finite(name, gradient)
    return _Attach.call(value, source, gradient.detach(), name)


def check_finite(name: str, values: Tensor) -> None:
    """What estimator `name` makes a gradient of, the values of `f` or differences of them."""
    if is_infinite(values):
        raise ValueError(
            f"{name} has no finite gradient: f is infinite at a sample, or overflows {values.dtype}"
            "; give it a finite floor or ceiling there"
        )


class _Attach(Function):
    @staticmethod
    def forward(value, source, gradient, name):
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, source, gradient, ctx.name = inputs
        ctx.save_for_backward(source, gradient)

    @staticmethod
    def backward(ctx, slope):
        _, gradient = ctx.saved_tensors
        weighted = beside(slope, gradient.ndim) * gradient
        return slope, _once(ctx, weighted), None, None


def first_order(name: str, source: Tensor) -> Tensor:
    """`source`, such that a second derivative through it raises, naming estimator `name`.

    For an estimator whose gradient autograd builds from a first derivative that is not that of
    its value, as straight-through ones do.
    """
    return _FirstOrder.call(source, name)


class _FirstOrder(Function):
    @staticmethod
    def forward(source, name):
        return source.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        source, ctx.name = inputs
        ctx.save_for_backward(source)

    @staticmethod
    def backward(ctx, slope):
        return _once(ctx, slope), None


def handed_on(name: str, hard: Tensor, soft: Tensor) -> Tensor:
    """`hard`, whose gradient `soft` gets, and no second derivative, naming estimator `name`.

    `soft` has the shape of `hard` without its first dimension. Both results share memory: `hard`
    is to be nobody else's.
    """
    return _HandedOn.call(hard, soft, name)


class _HandedOn(Function):
    @staticmethod
    def forward(hard, soft, name):
        return hard.detach()

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, soft, ctx.name = inputs
        ctx.save_for_backward(soft)

    @staticmethod
    def backward(ctx, slope):
        return None, _once(ctx, slope[0] if len(slope) == 1 else slope.sum(0)), None


def _once(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
    """`gradient`, whose own derivative is refused where a graph for one is being made.

    `ctx` saved what it is a gradient of first, and the estimator's name.
    """
    if not torch.is_grad_enabled():
        return gradient
    return _Once.call(gradient, ctx.saved_tensors[0], ctx.name)


class _Once(Function):
    """The identity in its first argument; its own derivative is refused."""

    @staticmethod
    def forward(gradient, source, name):
        return gradient.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name = inputs[2]

    @staticmethod
    def backward(ctx, _):
        raise NotImplementedError(
            f"{ctx.name} has first derivatives only: for higher ones use Pathwise, "
            "ScoreFunction() or Enumeration"
        )


def also_train(value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`value`, whose `backward()` also adds `gradients` to the `.grad` of `parameters`.

    For an estimator's own parameters: what they receive is the same whatever the sign or the scale
    of the loss that `value` becomes part of, and it arrives with the other gradients, so that
    `zero_grad()` may stand before or after the forward pass.
    """
    gradients = [gradient.detach() for gradient in gradients]
    return _AlsoTrain.call(value, len(gradients), *gradients, *parameters)


class _AlsoTrain(Function):
    generate_vmap_rule = False  # parameters get one gradient

    @staticmethod
    def forward(value, count, *gradients_and_parameters):
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        count = inputs[1]
        ctx.save_for_backward(*inputs[2 : 2 + count])

    @staticmethod
    def backward(ctx, slope):
        gradients = ctx.saved_tensors
        return slope, None, *(None,) * len(gradients), *gradients
