"""How right implicit gradients are: torch's Gamma, Beta and StudentT, and the laws of reparam.

Every derivative is compared with `-(dF/dφ) / p` at 40 digits or more, at quantiles from 1e-6 to
1 - 1e-6, and the relative error is kept by parameter. A Dirichlet sample takes each component from
the routine that is measured as Beta.

Run with `python -m reparam.long_runs.implicit_gradients` (about ten minutes on one core).
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence

import mpmath as mp
import scipy.optimize
import scipy.special
import torch
from torch.distributions import Categorical, Dirichlet, Distribution, Gamma, Normal
from tqdm import tqdm

from reparam.distributions import Mixture, TruncatedNormal, VonMises
from reparam.long_runs import write

SEED = 0
QUANTILES = [1e-6, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6]
DTYPES = {"float64": torch.float64, "float32": torch.float32}
GAMMA = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 8.0, 10.0, 30.0, 100.0, 1e3, 1e4]
BETA = [0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1e3]
DF = [0.1, 1.0, 3.0, 10.0, 100.0, 1e3, 1e4, 1e5]
VON_MISES = [1e-8, 1e-4, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 1e4, 1e6]
#: Bounds in standard deviations from `loc`, 0.
TRUNCATED = [
    (-1e-6, 1e-6),
    (-2.0, 2.0),
    (-40.0, 1.0),
    (0.0, math.inf),
    (3.0, 3.001),
    (5.0, math.inf),
    (40.0, 41.0),
    (-1e3, -999.0),
    (1e3, math.inf),
    (1e4, math.inf),
]

#: Half the distance of the modes of two Gaussians, of scales 1 and 1/2 and weights 1 : e.
MIXTURE = [0.5, 2.0, 5.0, 10.0]

Pair = tuple[float, float, mp.mpf]  # quantile, derivative, reference


# --- references ----------------------------------------------------------------------------------


def gamma_reference(concentration: float, z: float) -> mp.mpf:
    """`dz/dconcentration` of a standard gamma sample."""
    a, z = mp.mpf(concentration), mp.mpf(z)
    rise = mp.diff(lambda a: mp.gammainc(a, 0, z, regularized=True), a)
    return -rise / mp.exp((a - 1) * mp.log(z) - z - mp.loggamma(a))


def beta_reference(a: float, b: float, z: float) -> mp.mpf:
    """`dz/da` of a Beta(a, b) sample."""
    a, b, z = mp.mpf(a), mp.mpf(b), mp.mpf(z)
    rise = mp.diff(lambda a: mp.betainc(a, b, 0, z, regularized=True), a)
    log_beta = mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)
    return -rise / mp.exp((a - 1) * mp.log(z) + (b - 1) * mp.log1p(-z) - log_beta)


def von_mises_reference(
    concentration: float, us: Sequence[float], near: Sequence[float]
) -> Iterator[mp.mpf]:
    """`dz/dconcentration` of angles around 0 at quantiles `us`, which lie near the angles `near`.

    `F(z) = 1/2 + z/2π + Σ r_j sin(j z) / jπ` with `r_j = I_j(κ)/I_0(κ)`, term by term, where
    `dr_j/dκ = (r_{j-1} + r_{j+1})/2 - r_j r_1`.
    """
    kappa = mp.mpf(concentration)
    terms = 20 + int(16 * math.sqrt(concentration))
    r = [mp.mpf(0)] * (terms + 2)  # first r_j / r_{j-1} by backward recurrence, then r_j
    for j in range(terms, 0, -1):
        r[j] = 1 / (2 * j / kappa + r[j + 1])
    r[0] = mp.mpf(1)
    for j in range(1, terms + 1):
        r[j] *= r[j - 1]
    slopes = [0, *((r[j - 1] + r[j + 1]) / 2 - r[j] * r[1] for j in range(1, terms + 1))]
    for u, z in zip(us, near, strict=True):
        z = mp.mpf(z)
        for _ in range(4):  # Newton's method doubles the digits of the 7 or 16 that are there
            turn, power = mp.expj(z), mp.mpf(1)
            quantile, density, slope = mp.mpf(1) / 2 + z / (2 * mp.pi), 1 / (2 * mp.pi), mp.mpf(0)
            for j in range(1, terms + 1):
                power *= turn
                quantile += r[j] * power.imag / (j * mp.pi)
                density += r[j] * power.real / mp.pi
                slope += slopes[j] * power.imag / (j * mp.pi)
            z -= (quantile - mp.mpf(u)) / density
        yield -slope / density


def truncated_reference(low: float, high: float, u: float) -> tuple[mp.mpf, ...]:
    """`dz/dloc`, `dz/dscale`, `dz/dlow` and `dz/dhigh` of a truncated standard Gaussian at `u`."""
    a, b, u = mp.mpf(low), mp.mpf(high), mp.mpf(u)

    def mass(start, end):  # from the side on which nothing cancels
        if start < 0 and end <= 0:
            start, end = -end, -start
        root = mp.sqrt(2)
        return (mp.erfc(start / root) - mp.erfc(end / root)) / 2

    def log_odds(x):
        return mp.log(mass(a, x) / mass(x, b)) - mp.log(u / (1 - u))

    # The distances from both bounds are unknown by orders of magnitude: bisect.
    left = a if a > -mp.inf else mp.mpf(-50)
    right = b if b < mp.inf else max(a, 0) + 50 / max(a, mp.mpf(1))
    for _ in range(250):
        x = (left + right) / 2
        left, right = (left, x) if log_odds(x) > 0 else (x, right)
    from_low = (1 - u) * mp.exp((x * x - a * a) / 2) if a > -mp.inf else mp.mpf(0)
    from_high = u * mp.exp((x * x - b * b) / 2) if b < mp.inf else mp.mpf(0)
    products = [bound * one for bound, one in ((a, from_low), (b, from_high)) if one]
    return 1 - from_low - from_high, x - sum(products), from_low, from_high


def mixture_reference(parameters: Sequence[Sequence[float]], z: float) -> list[mp.mpf]:
    """Derivatives of a sample of Gaussians with respect to `logits`, `loc` and `scale`."""
    logits, loc, scale = ([mp.mpf(v) for v in values] for values in parameters)
    total = sum(mp.exp(logit) for logit in logits)
    weights = [mp.exp(logit) / total for logit in logits]
    xs = [(mp.mpf(z) - m) / s for m, s in zip(loc, scale, strict=True)]
    parts = [w * mp.npdf(x) / s for w, x, s in zip(weights, xs, scale, strict=True)]
    # From the tail in which no digits are lost.
    sign = 1 if xs[0] < 0 else -1
    tails = [mp.erfc(-sign * x / mp.sqrt(2)) / 2 for x in xs]
    mean = sum(w * tail for w, tail in zip(weights, tails, strict=True))
    density = sum(parts)
    return [
        *(-sign * w * (tail - mean) / density for w, tail in zip(weights, tails, strict=True)),
        *(part / density for part in parts),
        *(part * x / density for part, x in zip(parts, xs, strict=True)),
    ]


# --- derivatives, and what they should be --------------------------------------------------------


def gamma(concentration: float, dtype: torch.dtype) -> Iterator[Pair]:
    """torch's `dz/dconcentration` of a standard gamma sample."""
    a = torch.tensor(concentration, dtype=dtype)
    for u in QUANTILES:
        z = torch.tensor(scipy.special.gammaincinv(a.item(), u), dtype=dtype)
        if z > torch.finfo(dtype).tiny:
            yield u, torch._standard_gamma_grad(a, z).item(), gamma_reference(a.item(), z.item())


def beta(a: float, dtype: torch.dtype) -> Iterator[Pair]:
    """torch's `dz/da` of Beta(a, b) samples, for every `b`."""
    for b in BETA:
        alpha = torch.tensor([a, b], dtype=dtype)
        for u in QUANTILES:
            x = scipy.special.betaincinv(*alpha.tolist(), u)
            z = torch.tensor([x, 1 - x], dtype=dtype)
            if z[0] > torch.finfo(dtype).tiny and z[0] < 1 - torch.finfo(dtype).eps:
                grad = torch._dirichlet_grad(z, alpha, alpha.sum().expand(2))[0] * (1 - z[0])
                yield u, grad.item(), beta_reference(*alpha.tolist(), z[0].item())


def student_t(df: float, dtype: torch.dtype) -> Iterator[Pair]:
    """torch's `dz/ddf` where the Gaussian noise is 1, `z = √(df / c)` with `c` a chi-square."""
    for u in QUANTILES:
        d = torch.tensor(df, dtype=dtype, requires_grad=True)
        half = torch.tensor(scipy.special.gammaincinv(df / 2, u), dtype=dtype)
        if half <= torch.finfo(dtype).tiny:
            continue
        chi = (2 * half).requires_grad_()
        z = torch.rsqrt(chi / d)
        direct, from_chi = torch.autograd.grad(z, (d, chi))
        # Gamma(df/2) is drawn, and doubled: d(2 half)/ddf = d half/d(df/2).
        grad = direct + from_chi * torch._standard_gamma_grad(d.detach() / 2, half)
        c, n = 2 * mp.mpf(half.item()), mp.mpf(d.item())
        slope = gamma_reference(d.item() / 2, half.item())
        yield u, grad.item(), mp.sqrt(n / c) * (1 / n - slope / c) / 2


def von_mises(concentration: float, dtype: torch.dtype) -> Iterator[Pair]:
    """Ours, `dz/dconcentration`; it is 0 at the median."""
    u = torch.tensor([u for u in QUANTILES if u != 0.5], dtype=dtype)
    kappa = torch.full_like(u, concentration, requires_grad=True)
    z = VonMises(torch.zeros_like(u), kappa).icdf(u)
    z.sum().backward()
    references = von_mises_reference(kappa[0].item(), u.tolist(), z.tolist())
    yield from zip(u.tolist(), kappa.grad.tolist(), references, strict=True)


def truncated_normal(bounds: tuple[float, float], dtype: torch.dtype) -> Iterator[Pair]:
    """Ours, the derivatives with respect to all four parameters, where they are above 1e-30."""
    for u in QUANTILES:
        leaves = [torch.tensor(p, dtype=dtype, requires_grad=True) for p in (0.0, 1.0, *bounds)]
        one = torch.tensor(u, dtype=dtype)
        TruncatedNormal(*leaves).icdf(one).backward()
        references = truncated_reference(leaves[2].item(), leaves[3].item(), one.item())
        for leaf, reference in zip(leaves, references, strict=True):
            if abs(reference) > 1e-30:
                yield u, leaf.grad.item(), reference


def mixture(distance: float, dtype: torch.dtype) -> Iterator[Pair]:
    """Ours, the derivatives with respect to logits, locations and scales, above 1e-30."""
    values = [[0.0, 1.0], [-distance, distance], [1.0, 0.5]]
    weight = 1 / (1 + math.e)
    for u in QUANTILES:
        leaves = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in values]
        logits, loc, scale = leaves
        q = Mixture(Categorical(logits=logits), Normal(loc, scale))

        def excess(z, u=u):
            first, second = scipy.special.ndtr([z + distance, 2 * (z - distance)])
            return weight * first + (1 - weight) * second - u

        z = torch.tensor(scipy.optimize.brentq(excess, -20, 20, xtol=1e-14), dtype=dtype)
        q.sample = lambda shape=(), z=z: z
        q.rsample().backward()
        slopes = torch.cat([leaf.grad for leaf in leaves]).tolist()
        for slope, exact in zip(slopes, mixture_reference(values, z.item()), strict=True):
            if abs(exact) > 1e-30:
                yield u, slope, exact


#: By name: the derivatives, and the parameters at which they are taken.
LAWS: dict[str, tuple[Callable[..., Iterator[Pair]], Sequence]] = {
    "torch Gamma": (gamma, GAMMA),
    "torch Beta": (beta, BETA),
    "torch StudentT": (student_t, DF),
    "reparam VonMises": (von_mises, VON_MISES),
    "reparam TruncatedNormal": (truncated_normal, TRUNCATED),
    "reparam Mixture": (mixture, MIXTURE),
}


def accuracy(name: str, dtype: torch.dtype, parameter) -> dict:
    """Relative errors of one law at one parameter: largest, where, and median."""
    with mp.workdps(40 if name.startswith("torch") else 60):
        pairs = list(LAWS[name][0](parameter, dtype))
        errors = [float(abs((grad - exact) / exact)) for _, grad, exact in pairs]
    worst = max(range(len(errors)), key=errors.__getitem__)
    return {
        "parameter": str(parameter),
        "count": len(errors),
        "largest": errors[worst],
        "at_quantile": pairs[worst][0],
        "median": statistics.median(errors),
    }


# --- where torch fails outright ------------------------------------------------------------------


def share_at_the_floor(concentration: float, dtype: torch.dtype, count: int = 100_000) -> dict:
    """Gamma samples at the smallest normal number, where no gradient is left to be had."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        z = Gamma(torch.tensor(concentration, dtype=dtype), torch.ones((), dtype=dtype)).sample(
            (count,)
        )
        p = Dirichlet(torch.full((3,), concentration, dtype=dtype)).sample((count,))
    tiny = torch.finfo(dtype).tiny
    return {
        "concentration": concentration,
        "gamma": (z <= tiny).double().mean().item(),
        "gamma_expected": float(scipy.special.gammainc(concentration, tiny)),
        "dirichlet": (p.min(-1).values <= tiny).double().mean().item(),
    }


def second_derivative(distribution: Callable[[torch.Tensor], Distribution]) -> str:
    """What torch says when a sample is differentiated twice."""
    concentration = torch.tensor([1.0, 2.0], requires_grad=True)
    z = distribution(concentration).rsample()
    (first,) = torch.autograd.grad(z.square().sum(), concentration, create_graph=True)
    try:
        first.square().sum().backward()
    except RuntimeError as error:
        return str(error)
    return ""


def main() -> None:
    torch.set_num_threads(1)
    data = {
        "quantiles": QUANTILES,
        "accuracy": {
            name: {
                kind: [
                    accuracy(name, dtype, parameter)
                    for parameter in tqdm(LAWS[name][1], desc=f"{name}, {kind}")
                ]
                for kind, dtype in DTYPES.items()
            }
            for name in LAWS
        },
        "floor": {
            kind: [share_at_the_floor(a, dtype) for a in (0.001, 0.01, 0.03, 0.1)]
            for kind, dtype in DTYPES.items()
        },
        "second_derivative": {
            "Gamma": second_derivative(lambda c: Gamma(c, 1.0)),
            "Dirichlet": second_derivative(Dirichlet),
        },
    }
    print(write("implicit_gradients", data, [SEED]))


if __name__ == "__main__":
    main()
