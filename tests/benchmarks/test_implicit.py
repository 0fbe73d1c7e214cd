"""Accuracy × time of every implicit gradient, ours and PyTorch's beside those of others.

The others: TensorFlow Probability 0.25 on JAX (its Gamma is JAX's), Pyro's mixture of normals, and
formulas as they are commonly typed. Each draws a batch in float64 and differentiates the sum of its
samples by a parameter that every sample has for itself. The slopes of some of them are held
against mpmath, which differentiates the distribution function at a hundred digits. Laws that are
composed of several draws (Student's t, and TFP's Beta) take another path, and have no such slope.
"""

import math
import os
import warnings

import mpmath
import pytest
import torch
from torch.distributions import Beta, Categorical, Gamma, Normal

from reparam.distributions import Mixture, TruncatedNormal, VonMises
from tests.benchmarks.timing import interleaved, keep

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
jax = pytest.importorskip("jax", reason="make benchmarks installs it")
jax.config.update("jax_enable_x64", True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorflow_probability.substrates.jax import distributions as tfd
from pyro.distributions import MixtureOfDiagNormals  # noqa: E402

BATCH, CHECKED, ROUNDS = 10_000, 24, 20


def in_torch(law):
    """Draw and differentiate; `law(parameter)` is a distribution, or a function that draws."""

    def run(value):
        parameter = torch.full((BATCH,), value, dtype=torch.float64, requires_grad=True)
        made = law(parameter)
        z = made() if callable(made) else made.rsample()
        (slope,) = torch.autograd.grad(z.sum(), parameter)
        return z.detach(), slope

    return run


def in_jax(law):
    @jax.jit
    def compiled(parameter):
        key = jax.random.PRNGKey(0)
        z, pull_back = jax.vjp(lambda p: law(p).sample(seed=key), parameter)
        return z, pull_back(jax.numpy.ones_like(z))[0]

    def run(value):
        z, slope = compiled(jax.numpy.full((BATCH,), value))
        slope.block_until_ready()
        return z, slope

    return run


def typed_truncated_normal(low, high):
    """As found in many repositories: by erf and erfinv."""

    def law(loc):
        def draw():
            cdf = [0.5 * (1 + torch.erf((bound - loc) / math.sqrt(2))) for bound in (low, high)]
            u = cdf[0] + (cdf[1] - cdf[0]) * torch.rand_like(loc)
            return loc + math.sqrt(2) * torch.erfinv(2 * u - 1)

        return draw

    return law


def quotient(cdf, parameter, z, density):
    """-∂F/∂φ / p at a hundred digits."""
    with mpmath.workdps(100):  # both tails cancel
        z, parameter = mpmath.mpf(float(z)), mpmath.mpf(parameter)
        return -mpmath.diff(lambda p: cdf(p, z), parameter) / density(parameter, z)


def gamma_slope(alpha, z):
    return quotient(
        lambda a, z: mpmath.gammainc(a, 0, z, regularized=True),
        alpha,
        z,
        lambda a, z: mpmath.exp((a - 1) * mpmath.log(z) - z) / mpmath.gamma(a),
    )


def beta_slope(alpha, z):
    return quotient(
        lambda a, z: mpmath.betainc(a, 3, 0, z, regularized=True),
        alpha,
        z,
        lambda a, z: z ** (a - 1) * (1 - z) ** 2 / mpmath.beta(a, 3),
    )


def von_mises_slope(kappa, z):
    with mpmath.workdps(30):
        kappa, z = mpmath.mpf(kappa), mpmath.mpf(float(z))
        mean = mpmath.besseli(1, kappa) / mpmath.besseli(0, kappa)
        width = 12 / mpmath.sqrt(kappa + 1)
        start = max(-mpmath.pi, -width) if z > -width else -mpmath.pi
        flow = mpmath.quad(
            lambda t: (mpmath.cos(t) - mean) * mpmath.exp(kappa * (mpmath.cos(t) - mpmath.cos(z))),
            mpmath.linspace(start, z, 9),
        )
        return -flow  # the normalizing constants cancel


def truncated_slope(low, high):
    def slope(loc, z):
        def cdf(m, z):
            return (mpmath.ncdf(z - m) - mpmath.ncdf(low - m)) / (
                mpmath.ncdf(high - m) - mpmath.ncdf(low - m)
            )

        def density(m, z):
            return mpmath.npdf(z - m) / (mpmath.ncdf(high - m) - mpmath.ncdf(low - m))

        return quotient(cdf, loc, z, density)

    return slope


def mixture_slope(mean, z):
    """By the mean of the second of two normals with weights 0.3 and 0.7, the first at -1."""
    return quotient(
        lambda m, z: 0.3 * mpmath.ncdf(z + 1) + 0.7 * mpmath.ncdf(z - m),
        mean,
        z,
        lambda m, z: 0.3 * mpmath.npdf(z + 1) + 0.7 * mpmath.npdf(z - m),
    )


def torch_mixture(mean):
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(*mean.shape, 2)
    means = torch.stack([torch.full_like(mean, -1.0), mean], -1)
    return Mixture(Categorical(weights), Normal(means, torch.ones_like(means)))


def pyro_mixture(mean):
    means = torch.stack([torch.full_like(mean, -1.0), mean], -1).unsqueeze(-1)
    logits = torch.tensor([0.3, 0.7], dtype=torch.float64).log().expand(*mean.shape, 2)
    law = MixtureOfDiagNormals(means, torch.ones_like(means), logits)
    return lambda: law.rsample().squeeze(-1)


def jax_mixture(mean):
    means = jax.numpy.stack([-1 + 0 * mean, mean], -1)
    probabilities = jax.numpy.broadcast_to(jax.numpy.array([0.3, 0.7]), means.shape)
    return tfd.MixtureSameFamily(
        tfd.Categorical(probs=probabilities),
        tfd.Normal(means, jax.numpy.ones_like(means)),
        reparameterize=True,
    )


#: name: (values of the parameter, slope by mpmath, ways)
CASES = {
    "Gamma, by α": (
        (0.1, 1.0, 10.0, 1000.0),
        gamma_slope,
        {
            "torch": in_torch(lambda a: Gamma(a, torch.ones_like(a))),
            "TFP on JAX": in_jax(lambda a: tfd.Gamma(a, 1.0)),
        },
    ),
    "Beta(α, 3), by α": (
        (0.1, 1.0, 10.0, 300.0),
        beta_slope,
        {
            "torch": in_torch(lambda a: Beta(a, torch.full_like(a, 3.0))),
        },
    ),
    "VonMises, by κ": (
        (0.1, 1.0, 10.0, 1000.0),
        von_mises_slope,
        {
            "ours": in_torch(lambda k: VonMises(torch.zeros_like(k), k)),
            "TFP on JAX": in_jax(lambda k: tfd.VonMises(0.0, k)),
        },
    ),
    "TruncatedNormal on (0, 1), by loc": (
        (0.5, -3.0),
        truncated_slope(0, 1),
        {
            "ours": in_torch(lambda m: TruncatedNormal(m, 1.0, 0.0, 1.0)),
            "TFP on JAX": in_jax(lambda m: tfd.TruncatedNormal(m, 1.0, 0.0, 1.0)),
            "typed with erfinv": in_torch(typed_truncated_normal(0.0, 1.0)),
        },
    ),
    "TruncatedNormal on (12, 13), by loc": (
        (0.0,),
        truncated_slope(12, 13),
        {
            "ours": in_torch(lambda m: TruncatedNormal(m, 1.0, 12.0, 13.0)),
            "TFP on JAX": in_jax(lambda m: tfd.TruncatedNormal(m, 1.0, 12.0, 13.0)),
            "typed with erfinv": in_torch(typed_truncated_normal(12.0, 13.0)),
        },
    ),
    "Mixture of two normals, by a mean": (
        (1.0, 4.0),
        mixture_slope,
        {
            "ours": in_torch(torch_mixture),
            "TFP on JAX": in_jax(jax_mixture),
            "Pyro": in_torch(pyro_mixture),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_accuracy_and_time(name):
    values, exact_slope, ways = CASES[name]
    summary = interleaved(
        {way: lambda run=run: [run(value) for value in values] for way, run in ways.items()},
        ROUNDS,
    )
    first = next(iter(summary.values()))
    for way, run in ways.items():
        torch.manual_seed(0)
        errors, lost = [], 0
        for value in values:
            samples, slopes = (tuple(float(x) for x in part[:CHECKED]) for part in run(value))
            for z, slope in zip(samples, slopes, strict=True):
                if not (math.isfinite(z) and math.isfinite(slope)):
                    lost += 1
                    continue
                exact = float(exact_slope(value, z))
                errors.append(abs(slope - exact) / max(abs(exact), 1e-12))
        row = {
            "name": f"{name}: {way}",
            "checked": CHECKED * len(values),
            "not finite": lost,
            "median error": sorted(errors)[len(errors) // 2] if errors else None,
            "largest error": max(errors, default=None),
            "seconds": summary[way],
            "time / first": summary[way]["minimum"] / first["minimum"],
        }
        keep("implicit gradients", row)
        print(
            f"\n{row['name']:52s} {1e9 * summary[way]['minimum'] / (BATCH * len(values)):7.0f} ns"
            f" a sample ({row['time / first']:.2f})  median {row['median error']}  largest"
            f" {row['largest error']}  not finite {lost}",
            end="",
        )
        if way == "ours":
            assert lost == 0 and row["largest error"] < 1e-8
