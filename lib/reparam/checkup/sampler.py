"""Check a Gaussian sampler: its law and its gradients."""

from collections.abc import Callable

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reparam._checks import check_count
from reparam._functions import keeping_modes
from reparam.checkup._report import Finding, Report, subject_of

# The points at which samplers are tried. The log-variances tell the usual mistakes apart.
_MU = (-1.3, 0.4, 2.1, 0.8)
_LOG_VAR = (-1.5, -0.6, 0.9, 1.7)
_ROWS = 10_000
_FALSE_ALARM = 1e-6

_TRICK = "z = mu + torch.exp(log_var / 2) * torch.randn_like(mu)"


def check_sampler(
    sampler: Callable[[Tensor, Tensor], Tensor],
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Report:
    """Check a Gaussian sampler `sampler(mu, log_var) -> z`: its law and its gradients.

    It calls the sampler on a few matrices, and looks at

    - the shape, dtype and device of z, and whether its values are finite; whether it would follow
      mu to another device (a sampler without tensors of its own is tried on torch's meta device);
    - the noise `eps = (z - mu) / sigma`: is there any, is it fresh in every row, column and
      call, and is it standard normal (mean, variance, Kolmogorov-Smirnov, correlations);
    - the gradients: `dz/dmu = 1` and `dz/dlog_var = (z - mu) / 2 = sigma eps / 2`, by value;
    - for an `nn.Module`: samples in training mode, the mean in evaluation mode.

    Args:
        sampler: a function or an `nn.Module`; the modes of its parts are put back afterwards.
        device: where to try it.
        seed: of the noise. The global generator is left as it was.

    Returns:
        A `Report`. A sampler that raises is a finding, too; float32 noise for float64 input is a
        remark. A right sampler is accused with
        probability below 1e-6; a mean off by 0.1 sigma, or a variance off by 15 %, is found with
        probability above 0.999.

    Raises:
        TypeError: if `sampler` is not callable.

    Used in chapters 1, 2 and 4.

    >>> from reparam.gaussian import reparameterize_gaussian
    >>> check_sampler(reparameterize_gaussian)
    reparameterize_gaussian: no fault found
    >>> report = check_sampler(lambda mu, log_var: torch.normal(mu, torch.exp(log_var / 2)))
    >>> [finding.name for finding in report.findings]
    ['the gradient is silently zero']
    """
    if not callable(sampler):
        raise TypeError(
            f"sampler must be callable as sampler(mu, log_var), got {type(sampler).__name__}"
        )
    check_count("seed", seed, least=0)
    device = torch.device(device)
    with (
        keeping_modes(sampler),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.manual_seed(seed)
        if isinstance(sampler, nn.Module):
            sampler.train()
        findings = _look_at(sampler, device) or _elsewhere(sampler)
        remarks = [] if findings else _narrow(sampler, device)
    return Report(subject_of(sampler), tuple(findings), tuple(remarks))


def _look_at(sampler, device: torch.device) -> list[Finding]:
    """All checks, from the plainest on; a later one runs only where it can mean something."""
    mu = torch.tensor(_MU, device=device).repeat(_ROWS, 1)
    log_var = torch.tensor(_LOG_VAR, device=device).repeat(_ROWS, 1)
    try:
        first, second = sampler(mu, log_var), sampler(mu, log_var)
        small = sampler(mu[:7].double(), log_var[:7].double()) if _takes_any(sampler) else None
        mean = _in_evaluation(sampler, mu[:7], log_var[:7])
        leaves = [tensor[:7].requires_grad_() for tensor in (mu, log_var)]
        z = sampler(*leaves)
        findings = _form(first, mu)
        if findings:
            return findings
        cotangent = torch.randn(7, len(_MU), device=device)
        slopes = (
            torch.autograd.grad(z, leaves, cotangent, allow_unused=True)
            if z.requires_grad
            else None
        )
    except Exception as error:  # whatever the reader's code may raise
        return _elsewhere(sampler) or [
            Finding(
                "it raises an error",
                f"{type(error).__name__}: {error}",
                "call it yourself with two tensors of shape [batch, D], both with "
                "requires_grad=True, and follow the traceback",
            )
        ]
    if small is not None:
        findings += _form(small, mu[:7].double())
    noise, shared = _noise(first, second, mu, log_var, is_module=mean is not None)
    findings += noise
    if not shared:
        findings += _law(first, mu, log_var)
    findings += _slopes(z, slopes, leaves, cotangent)
    if mean is not None and not torch.equal(mean, mu[:7]):
        gap = (mean - mu[:7]).abs().max()
        findings.append(
            Finding(
                "it still samples in evaluation mode",
                f"after .eval(), z differs from mu by up to {gap:.3g}",
                "return mu when self.training is False; where an evaluation needs samples, as an "
                "ELBO does, draw them with the function",
            )
        )
    return findings


def _takes_any(sampler) -> bool:
    """Whether any dtype and device can be asked for: a module's own tensors fix them."""
    return not isinstance(sampler, nn.Module) or not sampler.state_dict()


class _Draws(TorchFunctionMode):
    """Keeps the noise that torch draws while it is on."""

    _names = frozenset({"normal", "normal_", "rand", "rand_like", "randn", "randn_like"})

    def __init__(self):
        super().__init__()
        self.noise = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.__name__ in self._names:
            self.noise.append(result)
        return result


def _elsewhere(sampler) -> list[Finding]:
    """Noise that stays where it is when mu moves, without a GPU to try it on."""
    if not _takes_any(sampler):
        return []
    mu = torch.zeros(7, len(_MU), device="meta")
    try:
        with _Draws() as draws:
            sampler(mu, mu)
    except Exception as error:  # a sampler may look at values, which a meta tensor has not
        places = {noise.device for noise in draws.noise} - {mu.device}
        if places and isinstance(error, RuntimeError) and "device" in str(error):
            return [
                Finding(
                    "the noise is on the wrong device",
                    f"it is drawn on {places.pop()} wherever mu is, and torch does not add tensors "
                    "of two devices",
                    "torch.randn_like(mu), or torch.randn(..., device=mu.device)",
                )
            ]
    return []


def _narrow(sampler, device: torch.device) -> list[Finding]:
    """float64 samples from noise of fewer digits."""
    if not _takes_any(sampler):
        return []
    mu = torch.zeros(7, len(_MU), device=device, dtype=torch.float64)
    with _Draws() as draws:
        sampler(mu, mu)
    if all(noise.dtype == mu.dtype for noise in draws.noise):
        return []
    return [
        Finding(
            "the noise is float32 for float64 input",
            "z is float64, with 24 random bits in place of 53",
            "torch.randn_like(mu), or torch.randn(..., dtype=mu.dtype)",
        )
    ]


def _in_evaluation(sampler, mu: Tensor, log_var: Tensor) -> Tensor | None:
    if not isinstance(sampler, nn.Module):
        return None
    sampler.eval()
    try:
        return sampler(mu, log_var)
    finally:
        sampler.train()


def _form(z, mu: Tensor) -> list[Finding]:
    if not isinstance(z, Tensor):
        return [
            Finding(
                "z is not a tensor",
                f"it returned a {type(z).__name__}",
                "return the sample z alone",
            )
        ]
    wanted = {"shape": list(mu.shape), "dtype": mu.dtype, "device": mu.device}
    got = {"shape": list(z.shape), "dtype": z.dtype, "device": z.device}
    cures = {
        "shape": "draw one noise value per entry: torch.randn_like(mu)",
        "dtype": "torch.randn_like(mu) has mu's dtype; drop any .float() or dtype=",
        "device": "torch.randn_like(mu) lives where mu lives; drop any .cpu() or device=",
    }
    findings = [
        Finding(f"z has the wrong {what}", f"{got[what]} for {wanted[what]}", cures[what])
        for what in wanted
        if got[what] != wanted[what]
    ]
    if findings or not z.is_floating_point():
        return findings
    bad = ~z.isfinite()
    if bad.any():
        negative = bool((bad == (torch.tensor(_LOG_VAR, device=bad.device) < 0)).all())
        findings.append(
            Finding(
                "log_var is read as the variance" if negative else "z is not finite",
                f"{int(bad.sum())} of {z.numel()} values are NaN or infinite"
                + (", all where log_var is negative" if negative else ""),
                "sigma is torch.exp(log_var / 2), which is positive for every log_var"
                if negative
                else "look at how sigma comes from log_var, then at how the noise is drawn",
            )
        )
    return findings


def _noise(
    first: Tensor, second: Tensor, mu: Tensor, log_var: Tensor, is_module: bool
) -> tuple[list[Finding], bool]:
    """Faults of the noise that make tests of its law pointless; and whether there were any."""
    spread = first - mu
    if not spread.any():
        name = "it does not sample in training mode" if is_module else "there is no noise"
        cure = f"draw noise: {_TRICK}"
        return [Finding(name, "z equals mu in every entry", cure)], True
    findings = []
    if torch.equal(first, second):
        findings.append(
            Finding(
                "the noise is the same in every call",
                "two calls gave the same z",
                "draw noise inside the call, and never call torch.manual_seed there",
            )
        )
    eps = (spread / torch.exp(log_var / 2)).double()
    repeated = [
        ("row", eps.std(0).max() < 1e-4 * eps.abs().max()),
        ("column", eps.std(1).max() < 1e-4 * eps.abs().max()),
    ]
    for what, same in repeated:
        if same:
            findings.append(
                Finding(
                    f"the noise is the same for every {what}",
                    f"(z - mu) / sigma repeats in all {eps.shape[0 if what == 'row' else 1]} "
                    f"{what}s",
                    "draw one noise value per entry: torch.randn_like(mu)",
                )
            )
    return findings, bool(findings)


@np.errstate(divide="ignore", invalid="ignore")  # a column without any noise
def _law(z: Tensor, mu: Tensor, log_var: Tensor) -> list[Finding]:
    """Is eps standard normal? Every test is exact or nearly so, at a share of the false alarms."""
    eps = ((z - mu).double() / torch.exp(log_var.double() / 2)).detach().cpu().numpy()
    n, dims = eps.shape
    pairs = [(i, j) for i in range(dims) for j in range(i)]
    level = _FALSE_ALARM / (4 * dims + len(pairs))
    center, variance = eps.mean(0), eps.var(0, ddof=1)

    if (2 * scipy.stats.norm.sf(np.abs(center) / np.sqrt(variance / n)) < level).any():
        worst = np.abs(center).argmax()
        wanted, got = _MU[worst], float(z[:, worst].mean())
        return [
            Finding(
                "the mean is wrong",
                f"{n} samples of mean {got:.3g} where mu = {wanted:g}",
                "add mu to the noise once, and center the noise at 0: torch.randn, not torch.rand",
            )
        ]
    tail = scipy.stats.chi2(n - 1)
    tails = 2 * np.minimum(tail.cdf((n - 1) * variance), tail.sf((n - 1) * variance))
    if (tails < level).any():
        return [_wrong_variance(variance)]
    if (scipy.stats.kstest(eps, "norm").pvalue < level).any():
        skew, tail_weight = scipy.stats.skew(eps).mean(), scipy.stats.kurtosis(eps).mean()
        return [
            Finding(
                "the noise is not Gaussian",
                f"mean and variance are right, skewness is {skew:.2f} and excess kurtosis "
                f"{tail_weight:.2f} where both should be 0",
                "draw it with torch.randn_like(mu)",
            )
        ]
    between = np.array([scipy.stats.pearsonr(eps[:, i], eps[:, j]) for i, j in pairs])
    along = np.array([scipy.stats.pearsonr(eps[1:, i], eps[:-1, i]) for i in range(dims)])
    findings = []
    for what, tests in (("columns", between), ("rows", along)):
        if (tests[:, 1] < level).any():
            strongest = tests[np.abs(tests[:, 0]).argmax(), 0]
            findings.append(
                Finding(
                    f"the noise of different {what} is correlated",
                    f"correlation {strongest:.2f} where it should be 0",
                    "draw one noise value per entry: torch.randn_like(mu)",
                )
            )
    return findings


def _wrong_variance(eps_variance: np.ndarray) -> Finding:
    """Name the misreading of log_var that explains the scales seen, if one does."""
    log_var = np.array(_LOG_VAR)
    sigma = np.sqrt(eps_variance) * np.exp(log_var / 2)
    misreadings = {
        "log_var is read as log sigma: the ½ is missing": np.exp(log_var),
        "log_var is read as sigma": np.abs(log_var),
        "log_var is read as the variance": np.sqrt(np.abs(log_var)),
        "sigma is 1 whatever log_var is": np.ones_like(log_var),
    }
    name = next(
        (name for name, scale in misreadings.items() if np.allclose(sigma, scale, rtol=0.08)),
        "the variance is wrong",
    )
    worst = np.abs(np.log(eps_variance)).argmax()
    return Finding(
        name,
        f"at log_var = {log_var[worst]:g} the samples' standard deviation is {sigma[worst]:.3g}, "
        f"where exp(log_var / 2) = {np.exp(log_var[worst] / 2):.3g}",
        f"{_TRICK}: half the log-variance is the log of sigma",
    )


def _slopes(
    z: Tensor,
    slopes: tuple[Tensor | None, Tensor | None] | None,
    leaves: list[Tensor],
    cotangent: Tensor,
) -> list[Finding]:
    """The values of the gradients, weighted by random numbers so that none can cancel."""
    if slopes is None:
        return [
            Finding(
                "the sample has no graph",
                "z.requires_grad is False: mu.grad and log_var.grad stay None, and where "
                "another term of the loss has a gradient nothing complains",
                f"{_TRICK}, or rsample() for sample(); no .detach(), no torch.no_grad()",
            )
        ]
    mu, log_var = (leaf.detach() for leaf in leaves)
    by_mu, by_log_var = (torch.zeros_like(mu) if slope is None else slope for slope in slopes)
    spread = z.detach() - mu
    if not by_mu.any() and not by_log_var.any() and spread.any():
        return [
            Finding(
                "the gradient is silently zero",
                "z has a graph, and dz/dmu and dz/dlog_var are exactly 0 in every entry, "
                "where they should be 1 and sigma eps / 2",
                f"{_TRICK}; torch.normal(mu, sigma) and in-place normal_() pass no gradient",
            )
        ]
    findings = []
    if not torch.allclose(by_mu, cotangent, rtol=1e-3, atol=1e-3):
        ratio = by_mu / cotangent
        findings.append(
            Finding(
                "the gradient for mu is not 1",
                f"dz/dmu has median {ratio.median():.3g} and runs from {ratio.min():.3g} to "
                f"{ratio.max():.3g}",
                "add mu itself to the scaled noise: not detached, not scaled, not mixed",
            )
        )
    if spread.any() and not torch.allclose(
        by_log_var, cotangent * spread / 2, rtol=1e-3, atol=1e-3
    ):
        findings.append(_wrong_log_var_slope(by_log_var / cotangent, spread, log_var))
    return findings


def _wrong_log_var_slope(slope: Tensor, spread: Tensor, log_var: Tensor) -> Finding:
    """`slope / spread` is d log sigma / d log_var whatever the noise is: ½, or a known mistake."""
    sigma = torch.exp(log_var / 2)
    explanations = {
        "log_var gets no gradient": (
            torch.zeros_like(spread),
            "keep sigma on the graph: no .detach(), no torch.no_grad(), no .item()",
        ),
        "the gradient for log_var lacks eps": (
            sigma / 2,
            "multiply the noise by sigma before anything is detached: dz/dsigma is eps, not 1",
        ),
        "the gradient for log_var is twice too large: the ½ is missing": (
            spread,
            "sigma is torch.exp(log_var / 2), not torch.exp(log_var)",
        ),
        "the gradient for log_var is that of log_var read as sigma": (
            spread / log_var,
            "sigma is torch.exp(log_var / 2), not log_var",
        ),
    }
    name, cure = next(
        (
            (name, cure)
            for name, (explained, cure) in explanations.items()
            if torch.allclose(slope, explained, rtol=1e-2, atol=1e-2)
        ),
        ("the gradient for log_var is not sigma eps / 2", _TRICK),
    )
    worst = (slope - spread / 2).abs().argmax()
    return Finding(
        name,
        f"where sigma eps / 2 = {spread.flatten()[worst] / 2:.3g}, "
        f"dz/dlog_var = {slope.flatten()[worst]:.3g}",
        cure,
    )
