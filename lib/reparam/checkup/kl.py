"""Check a function for the KL of a Gaussian posterior from the standard Gaussian prior."""

from collections.abc import Callable

import torch
from torch import Tensor

from reparam.checkup._report import Finding, Report, subject_of
from reparam.gaussian import gaussian_kl

# Where the mistakes below give different numbers, in every combination (a test looks at them all).
_MU = ((-1.3, 0.4, 2.1, 0.8), (0.7, -2.6, 0.2, 1.1), (1.9, 0.3, -0.5, -1.7))
_LOG_VAR = ((-1.5, 0.6, 0.9, -1.7), (0.3, 1.2, -0.4, -1.1), (-0.8, 1.6, 0.2, -0.5))
# Log-variances far out, up to where exp(log_var) still fits into float32.
_FAR = (4.0, 6.0, 8.0, 11.0, 16.0, 21.0, 31.0, 51.0, 80.0)
_NEAR = (1e-3, 1e-4, 1e-6)

_MISTAKES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "the ½ is missing": (
        lambda mu, s: mu**2 + s.exp() - 1 - s,
        "multiply by 0.5: both log sigma and the squares come with a half",
    ),
    "the sign is wrong": (
        lambda mu, s: -(mu**2 + s.exp() - 1 - s) / 2,
        "a KL is never negative: the ELBO subtracts it, the loss adds it",
    ),
    "log_var is read as log sigma": (
        lambda mu, s: (mu**2 + (2 * s).exp() - 1 - 2 * s) / 2,
        "sigma² is exp(log_var), and log sigma² is log_var itself",
    ),
    "log_var is read as sigma": (
        lambda mu, s: (mu**2 + s**2 - 1) / 2 - s.log(),
        "sigma² is exp(log_var), and log sigma² is log_var itself",
    ),
    "log_var is read as the variance": (
        lambda mu, s: (mu**2 + s - 1 - s.log()) / 2,
        "sigma² is exp(log_var), and log sigma² is log_var itself",
    ),
    "mu and log_var are swapped": (
        lambda mu, s: (s**2 + mu.exp() - 1 - mu) / 2,
        "pass mu first, log_var second, or by name",
    ),
    "the KL is turned around": (
        lambda mu, s: ((1 + mu**2) * (-s).exp() - 1 + s) / 2,
        "the ELBO has the KL of the posterior from the prior, kl_divergence(q, p): the expectation "
        "is over the posterior",
    ),
    "mu is not squared": (
        lambda mu, s: (mu + s.exp() - 1 - s) / 2,
        "add mu², which is mu.pow(2)",
    ),
    "the term with mu is missing": (
        lambda mu, s: (s.exp() - 1 - s) / 2,
        "add mu² / 2",
    ),
    "the term -log_var is missing": (
        lambda mu, s: (mu**2 + s.exp() - 1) / 2,
        "subtract log_var / 2: without it sigma shrinks to 0 for nothing",
    ),
    "the constant is missing": (
        lambda mu, s: (mu**2 + s.exp() - s) / 2,
        "subtract ½ for each dimension; gradients are right without it, the ELBO is not",
    ),
}

_SUMMED = "it is summed over the batch"
_REDUCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    _SUMMED: (
        lambda kl: kl.sum(),
        "none where the reconstruction is summed over the batch as well, and no averaged term "
        "stands beside it",
    ),
    "it is averaged over the dimensions": (
        lambda kl: kl.mean(-1),
        "sum the dimensions, kl.sum(-1): beside a reconstruction that is summed over pixels the "
        "mean is a β-VAE with β = 1/D",
    ),
    "it is averaged over batch and dimensions": (
        lambda kl: kl.mean(),
        "kl.sum(-1).mean(): sum the dimensions, average the batch; beside a reconstruction that is "
        "summed over pixels the mean of all is a β-VAE with β = 1/D",
    ),
    "it is summed over the batch and averaged over the dimensions": (
        lambda kl: kl.mean(-1).sum(),
        "kl.sum(-1).mean(): sum the dimensions, average the batch",
    ),
    "it is summed over the batch, not over the dimensions": (
        lambda kl: kl.sum(0),
        "kl.sum(-1): the dimensions are the last axis, the batch is the first",
    ),
    "it is averaged over the batch before the dimensions are summed": (
        lambda kl: kl.mean(0),
        "kl.sum(-1): the dimensions are the last axis; then average the batch where a scalar is "
        "wanted",
    ),
}

_RIGHT = (lambda kl: kl, lambda kl: kl.sum(-1), lambda kl: kl.sum(-1).mean())


def check_kl(kl_function: Callable[[Tensor, Tensor], Tensor]) -> Report:
    """Check a function `kl_function(mu, log_var)` for `KL(N(mu, exp(log_var)) ‖ N(0, I))`.

    It calls the function on a batch of 3 posteriors with 4 dimensions, at which the usual mistakes
    give different numbers, alone or a wrong term and a wrong reduction together, and looks at

    - the value: each posterior's KL, each dimension's share, and the mean over the batch are right;
    - the gradients with respect to mu and log_var;
    - log-variances from -80 to 80, where a clamp inside the function shows;
    - values near the prior, where the usual formula cancels.

    Args:
        kl_function: called with two float32 tensors of one shape `[batch, D]`.

    Returns:
        A `Report`. A function that raises is a finding, too. What training does not mind is a
        remark: cancellation near the prior, and a sum over the batch.

    Raises:
        TypeError: if `kl_function` is not callable.

    Used in chapter 4.

    >>> from reparam.gaussian import gaussian_kl
    >>> check_kl(gaussian_kl)
    gaussian_kl: no fault found
    >>> report = check_kl(lambda mu, log_var: gaussian_kl(mu, log_var, "none").mean(-1))
    >>> [finding.name for finding in report.findings]
    ['it is averaged over the dimensions']
    """
    if not callable(kl_function):
        raise TypeError(
            f"kl_function must be callable as kl_function(mu, log_var), "
            f"got {type(kl_function).__name__}"
        )
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.enable_grad():
        try:
            findings, remarks = _look_at(lambda mu, log_var: _called(kl_function, mu, log_var))
        except _Fault as fault:
            findings, remarks = [fault.finding], []
    return Report(subject_of(kl_function), tuple(findings), tuple(remarks))


class _Fault(Exception):
    """One after which nothing else can be looked at."""

    def __init__(self, *finding: str):
        self.finding = Finding(*finding)


def _called(kl_function: Callable, mu: Tensor, log_var: Tensor) -> Tensor:
    """What the function gives, if it has the form of a KL."""
    try:
        got = kl_function(mu, log_var)
    except Exception as error:  # whatever the reader's code may raise
        low, high = log_var.detach().aminmax()
        raise _Fault(
            "it raises an error",
            f"{type(error).__name__}: {error}; at log-variances from {low:g} to {high:g}",
            "call it yourself with two such tensors of shape [3, 4], and follow the traceback",
        ) from error
    _check_form(got)
    return got


def _look_at(kl_function: Callable) -> tuple[list[Finding], list[Finding]]:
    mu, log_var = torch.tensor(_MU), torch.tensor(_LOG_VAR)
    leaves = [mu.clone().requires_grad_(), log_var.clone().requires_grad_()]
    got, positive = kl_function(*leaves), kl_function(mu, log_var.abs())
    reading = _reading(got, mu, log_var) or _reading(positive, mu, log_var.abs())
    if reading is None:
        return [_unknown(got, mu, log_var)], []
    names, value_of = reading
    named = [Finding(name, _evidence(got, mu, log_var), _cure(name)) for name in names]
    findings = [finding for finding in named if finding.name != _SUMMED]
    remarks = [finding for finding in named if finding.name == _SUMMED]
    if got.isfinite().all():
        findings += _slopes(got, leaves, value_of)
    if not findings:
        findings += _far(kl_function, value_of)
    return findings, [] if findings else remarks + _near(kl_function, value_of)


def _check_form(got: object) -> None:
    if not isinstance(got, Tensor):
        raise _Fault(
            "it does not return a tensor",
            f"it returned a {type(got).__name__}",
            "return a tensor on the graph of mu and log_var: no .item(), no float()",
        )
    if not got.is_floating_point():
        raise _Fault(
            "it does not return floating-point numbers",
            f"their dtype is {got.dtype}",
            "return what the formula gives, without a conversion",
        )
    shapes = [list(reduce(torch.tensor(_MU)).shape) for reduce in _RIGHT]
    if list(got.shape) not in [*shapes, [len(_MU[0])]]:
        raise _Fault(
            "it has the wrong shape",
            f"{list(got.shape)} for mu and log_var of shape {shapes[0]}",
            f"return shape {shapes[1]}, one KL for each posterior, or a scalar, their mean",
        )


Value = Callable[[Tensor, Tensor], Tensor]


def _reading(got: Tensor, mu: Tensor, log_var: Tensor) -> tuple[list[str], Value] | None:
    """What the function computes: the names of its mistakes, and a formula for it in float64."""
    formulas = {"": lambda mu, s: gaussian_kl(mu, s, reduction="none")}
    formulas |= {name: formula for name, (formula, _) in _MISTAKES.items()}
    reductions = [("", reduce) for reduce in _RIGHT]
    reductions += [(name, reduce) for name, (reduce, _) in _REDUCTIONS.items()]
    for mistake, formula in formulas.items():
        for misreduction, reduce in reductions:

            def value_of(mu, s, formula=formula, reduce=reduce):
                return reduce(formula(mu.double(), s.double()))

            wanted = value_of(mu, log_var)
            if wanted.shape == got.shape and _agree(got, wanted):
                return [name for name in (mistake, misreduction) if name], value_of
    return None


def _agree(got: Tensor, wanted: Tensor, relative: float = 1e-4) -> bool:
    relative = _allowed(got, relative)
    return torch.allclose(got.detach().double(), wanted, rtol=relative, atol=relative)


def _allowed(got: Tensor, relative: float) -> float:
    """The relative error, or four roundings of its dtype: in 16 bits few digits are right."""
    return max(relative, 4 * torch.finfo(got.dtype).eps)


def _cure(name: str) -> str:
    return (_MISTAKES | _REDUCTIONS)[name][1]


def _evidence(got: Tensor, mu: Tensor, log_var: Tensor) -> str:
    """The first number that came, beside the right one of the same posterior or batch."""
    right = gaussian_kl(mu.double(), log_var.double())
    of = "the first posterior's KL"
    if got.ndim == 0:
        right, of = right.mean(), "the mean of the KLs"
    elif got.ndim == 2:
        right, of = gaussian_kl(mu.double(), log_var.double(), "none"), "the first dimension's KL"
    elif got.shape != right.shape:
        return f"shape {list(got.shape)} for mu and log_var of shape {list(mu.shape)}"
    return f"{got.flatten()[0].item():.4g} where {of} is {right.flatten()[0].item():.4g}"


def _unknown(got: Tensor, mu: Tensor, log_var: Tensor) -> Finding:
    finite = bool(got.isfinite().all())
    return Finding(
        "the value is wrong" if finite else "the value is not finite",
        _evidence(got, mu, log_var) + ("; none of the usual mistakes explains it" * finite),
        "0.5 * (mu**2 + exp(log_var) - 1 - log_var), summed over the last dimension: "
        "reparam.gaussian.gaussian_kl",
    )


def _slopes(got: Tensor, leaves: list[Tensor], value_of: Value) -> list[Finding]:
    """Gradients, weighted by random numbers, against those of the formula that fits the value."""
    if not got.requires_grad:
        return [
            Finding(
                "it has no graph",
                "its requires_grad is False: the KL would not train anything",
                "compute it outside torch.no_grad(), without .detach()",
            )
        ]
    weight = torch.randn(got.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(value_of(*leaves), leaves, weight, allow_unused=True)
    try:
        slopes = torch.autograd.grad(got, leaves, weight.to(got.dtype), allow_unused=True)
    except Exception as error:  # whatever a backward of the reader's own may raise
        in_place = "modified by an inplace operation" in str(error)
        raise _Fault(
            "its gradient raises an error",
            f"{type(error).__name__}: {error}".split("; ")[0],
            "leave tensors as they are once they were used: no operation with an underscore, no +="
            if in_place
            else "call backward() on it yourself, and follow the traceback",
        ) from error
    findings, tolerance = [], _allowed(got, 1e-3)
    for name, slope, right in zip(("mu", "log_var"), slopes, wanted, strict=True):
        slope = torch.zeros(()) if slope is None else slope
        right = torch.zeros(()) if right is None else right
        if not torch.allclose(slope, right, rtol=tolerance, atol=tolerance):
            worst = (slope - right).abs().argmax()
            findings.append(
                Finding(
                    f"the gradient for {name} is wrong",
                    f"{slope.expand_as(right).flatten()[worst]:.3g} where the value's own is "
                    f"{right.flatten()[worst]:.3g}",
                    "leave every term on the graph: no .detach(), no .data",
                )
            )
    return findings


def _far(kl_function: Callable, value_of: Value) -> list[Finding]:
    """Whether the formula goes on where log_var is large, of either sign."""
    for size in _FAR:
        for sign in (1, -1):
            mu, log_var = torch.tensor(_MU), torch.full((len(_MU), len(_MU[0])), sign * size)
            got, wanted = kl_function(mu, log_var), value_of(mu, log_var)
            if torch.allclose(got.detach().double(), wanted, rtol=_allowed(got, 1e-3), atol=0):
                continue
            seen = f"at log_var = {sign * size:g} it gives {got.flatten()[0].item():.4g}, "
            right = f"where {wanted.flatten()[0].item():.4g} is right"
            if not got.isfinite().all():
                cure = "keep exponentials in float32 or wider"
                return [Finding("it overflows", seen + right, cure)]
            return [
                Finding(
                    "it is clamped inside",
                    f"{seen}{right}; below {size:g} it is right",
                    "bound log_var once, in the encoder, by bound_log_var: the sampler must draw "
                    "from the law whose KL this is, and beyond a clamp there is no gradient",
                )
            ]
    return []


def _near(kl_function: Callable, value_of: Value) -> list[Finding]:
    """How right it is beside the prior, where exp(log_var) - 1 - log_var cancels in float32."""
    mu, worst = torch.zeros(len(_MU), len(_MU[0])), (0.0, "")
    for size in _NEAR:
        log_var = torch.full_like(mu, size)
        got, wanted = (kl(mu, log_var).flatten()[0].item() for kl in (kl_function, value_of))
        seen = f"at mu = 0 and log_var = {size:g} it gives {got:.3g} where {wanted:.3g} is right"
        worst = max(worst, (abs(got / wanted - 1), seen))
    error, seen = worst
    if error < 0.01:
        return []
    return [
        Finding(
            "it cancels near the prior",
            f"{seen}: off by {error:.0%}",
            "none for training, where an error of 1e-7 nats a dimension is nothing; where a KL is "
            "compared with 0, or divided by, use reparam.gaussian.gaussian_kl",
        )
    ]
