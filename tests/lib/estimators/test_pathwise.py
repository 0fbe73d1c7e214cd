"""Pathwise(implicit=True): against explicit paths, sample by sample, and exactly for a mixture."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    Chi2,
    Dirichlet,
    Exponential,
    Gamma,
    Gumbel,
    HalfCauchy,
    HalfNormal,
    Independent,
    Kumaraswamy,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategoricalStraightThrough,
    Pareto,
    StudentT,
    Uniform,
    Weibull,
)

from reparam.estimators import Pathwise

F64 = torch.float64
IMPLICIT = Pathwise(implicit=True)


def T(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


def mixture(logits, loc, scale):
    return MixtureSameFamily(Categorical(logits=logits), Normal(loc, scale))


# --- per sample ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_sample_by_sample(dtype, device):
    """`dz/dμ = 1` and `dz/dσ = ε`, as for the explicit path."""
    loc = torch.tensor([0.3, -1.0], dtype=dtype, device=device).expand(500, 2)
    scale = torch.tensor([2.0, 0.5], dtype=dtype, device=device).expand(500, 2)
    loc, scale = loc.clone().requires_grad_(), scale.clone().requires_grad_()
    seen = []
    f = lambda z: (seen.append(z), torch.sin(z).sum(-1))[1]  # noqa: E731
    estimate = IMPLICIT(f, Independent(Normal(loc, scale), 1))
    z = seen[0].detach()[0]
    torch.testing.assert_close(estimate.detach(), torch.sin(z).sum(-1))
    got = torch.autograd.grad(estimate.sum(), (loc, scale))
    eps = ((z - loc) / scale).detach()
    tolerance = dict(rtol=2e-4, atol=2e-4) if dtype is torch.float32 else {}
    torch.testing.assert_close(got[0], torch.cos(z), **tolerance)
    torch.testing.assert_close(got[1], torch.cos(z) * eps, **tolerance)


@pytest.mark.parametrize(
    "family, parameters",
    [
        (Normal, {"loc": 0.3, "scale": 0.7}),
        (Cauchy, {"loc": 0.3, "scale": 0.7}),
        (Exponential, {"rate": 1.3}),
        (Gumbel, {"loc": 0.3, "scale": 0.7}),
        (HalfCauchy, {"scale": 0.7}),
        (HalfNormal, {"scale": 0.7}),
        (Kumaraswamy, {"concentration1": 1.7, "concentration0": 0.8}),
        (Laplace, {"loc": 0.3, "scale": 0.7}),
        (LogNormal, {"loc": 0.3, "scale": 0.7}),
        (Pareto, {"scale": 0.7, "alpha": 2.3}),
        (Uniform, {"low": -0.3, "high": 2.0}),
        (Weibull, {"scale": 0.7, "concentration": 1.6}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_first_and_second_derivatives_are_those_of_the_explicit_path(family, parameters):
    """Where there is one noise, there is one path: the same from `rsample` and from `cdf`."""
    found = []
    for estimator in (IMPLICIT, Pathwise()):
        torch.manual_seed(5)
        leaves = [T([value] * 200) for value in parameters.values()]
        seen = []
        f = lambda z: (seen.append(z.detach()), torch.sin(z) + z**2)[1]  # noqa: E731, B023
        estimate = estimator(f, family(*leaves))
        first = torch.autograd.grad(estimate.sum(), leaves, create_graph=True)
        second = [
            torch.autograd.grad(g.sum(), leaves, retain_graph=True, materialize_grads=True)
            for g in first
        ]
        found.append((seen[0], first, second))
    torch.testing.assert_close(found[0][0], found[1][0])  # the same samples
    torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-6, atol=1e-7)


def test_the_rate_of_a_gamma_has_a_path():
    """`z = G/β` with `G` Gamma: `dz/dβ = -z/β`; the concentration has none."""
    rate = T([1.3] * 50)
    seen = []
    estimate = IMPLICIT(
        lambda z: (seen.append(z.detach()), z**2)[1],
        Gamma(torch.full_like(rate, 2.0).detach(), rate),
    )
    (g,) = torch.autograd.grad(estimate.sum(), rate)
    torch.testing.assert_close(g, -2 * seen[0][0] ** 2 / 1.3)


# --- exactly -------------------------------------------------------------------------------------


def test_a_mixture_by_quadrature(monkeypatch):
    """`E[z² + cos z]` in closed form; first and second derivatives, every parameter."""
    logits, loc, scale = T([0.2, -0.5]), T([-1.0, 1.5]), T([0.6, 0.9])
    x, w = np.polynomial.legendre.leggauss(400)
    z = torch.tensor(12 * x)
    count = len(z)
    copies = [p.expand(count, 2) for p in (logits, loc, scale)]
    q = mixture(*copies)
    weights = torch.tensor(12 * w) * q.log_prob(z).exp().detach()
    monkeypatch.setattr(MixtureSameFamily, "sample", lambda q, shape: z.expand(*shape, count))
    estimate = (IMPLICIT(lambda z: z**2 + torch.cos(z), q) * weights).sum()
    exact = (
        logits.softmax(-1) * (loc**2 + scale**2 + torch.exp(-(scale**2) / 2) * torch.cos(loc))
    ).sum()
    torch.testing.assert_close(estimate.detach(), exact.detach(), rtol=1e-9, atol=1e-9)
    leaves = (logits, loc, scale)
    got = torch.autograd.grad(estimate, leaves, create_graph=True)
    wanted = torch.autograd.grad(exact, leaves, create_graph=True)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    for a, b in zip(got, wanted, strict=True):
        for one, other in zip(a, b, strict=True):
            torch.testing.assert_close(
                torch.autograd.grad(one, leaves, retain_graph=True),
                torch.autograd.grad(other, leaves, retain_graph=True, materialize_grads=True),
                rtol=1e-8,
                atol=1e-8,
            )


def test_several_mixtures_as_one_event():
    """`dz/dμ_k = π_k p_k(z) / p(z)` for each variable on its own."""
    logits, loc, scale = torch.zeros(3, 2, dtype=F64), T([[-1.0, 1.0]] * 3), 0.8
    q = Independent(mixture(logits, loc, scale), 1)
    seen = []
    estimate = IMPLICIT(lambda z: (seen.append(z.detach()), z.prod(-1))[1], q, num_samples=7)
    assert estimate.shape == ()
    (g,) = torch.autograd.grad(estimate, loc)
    z = seen[0]
    share = Normal(loc.detach(), scale).log_prob(z.unsqueeze(-1)).softmax(-1)
    others = torch.stack([z[:, [1, 2]].prod(-1), z[:, [0, 2]].prod(-1), z[:, [0, 1]].prod(-1)], -1)
    torch.testing.assert_close(g, (others.unsqueeze(-1) * share).mean(0))


# --- what it gives, and bad input ---------------------------------------------------------------


def test_the_value_is_that_of_the_sample():
    torch.manual_seed(0)
    z = mixture(T([0.0, 0.0]), T([-1.0, 1.0]), T([0.5, 0.5])).sample((1000,))
    torch.manual_seed(0)
    q = mixture(T([0.0, 0.0]), T([-1.0, 1.0]), T([0.5, 0.5]))
    seen = []
    estimate = IMPLICIT(lambda x: (seen.append(x), x)[1], q, 1000)
    assert torch.equal(seen[0].detach(), z) and estimate.requires_grad
    with torch.no_grad():
        assert not IMPLICIT(torch.square, q).requires_grad
    fixed = IMPLICIT(torch.square, mixture(torch.zeros(2), torch.zeros(2), torch.ones(2)))
    assert not fixed.requires_grad


def test_samples_that_bring_a_path_have_it_once():
    class Careless(Normal):
        def sample(self, sample_shape=()):
            return self.rsample(sample_shape)

    loc = T([0.3])
    IMPLICIT(lambda z: 3 * z, Careless(loc, 1.0), 4).sum().backward()
    torch.testing.assert_close(loc.grad, torch.full_like(loc, 3.0))


def test_under_func_and_compile():
    def loss(loc):
        return IMPLICIT(lambda z: 3 * z, Normal(loc, torch.ones_like(loc))).sum()

    loc = torch.tensor([2.0, -1.0], dtype=F64)
    torch.testing.assert_close(torch.func.grad(loss)(loc), torch.full_like(loc, 3.0))
    leaf = loc.clone().requires_grad_()
    torch.compile(loss, backend="aot_eager")(leaf).backward()
    torch.testing.assert_close(leaf.grad, torch.full_like(loc, 3.0))


def test_what_has_no_differentiable_cdf():
    a = T(2.0)
    for q, name in (
        (Gamma(a, 1.0), "Gamma"),
        (Gamma(a, a), "Gamma"),
        (Chi2(a), "Chi2"),
        (Independent(Gamma(a.expand(3), 1.0), 1), "Gamma"),
        (Beta(a, 1.0), "Beta"),
        (StudentT(a), "StudentT"),
    ):
        match = rf"implicit=True\) needs a cdf that torch can .*{name} has none: use Pathwise\(\)"
        with pytest.raises(ValueError, match=match):
            IMPLICIT(lambda z: z.sum(-1) if z.ndim > 1 else z, q)
    gammas = MixtureSameFamily(Categorical(T([0.3, 0.7])), Gamma(T([1.0, 2.0]), 1.0))
    with pytest.raises(ValueError, match=r"MixtureSameFamily has none: use ScoreFunction"):
        IMPLICIT(torch.square, gammas)
    for q, name, instead in (
        (Bernoulli(T(0.3)), "Bernoulli", "ScoreFunction"),
        (Dirichlet(T([1.0, 2.0])), "Dirichlet", r"Pathwise\(\)"),
        (MultivariateNormal(T([0.0]), torch.eye(1, dtype=F64)), "MultivariateNormal", "Pathwise"),
        (
            MixtureSameFamily(
                Categorical(T([0.3, 0.7])), Independent(Normal(T([[0.0]] * 2), 1), 1)
            ),
            "MixtureSameFamily",
            "ScoreFunction",
        ),
    ):
        with pytest.raises(ValueError, match=f"one dimension each.*got {name}: use {instead}"):
            IMPLICIT(lambda z: z.sum(-1), q)
    with pytest.raises(ValueError, match="does not depend on the sample"):
        IMPLICIT(lambda z: (z > 0).double(), Normal(a, 1.0))
    with pytest.raises(TypeError, match=r"implicit must be True or False, got str \('yes'\)"):
        Pathwise(implicit="yes")
    assert math.isfinite(Pathwise()(torch.square, Gamma(a, a)).item())  # as the message says


def test_discrete_samples_have_no_path_even_with_rsample():
    logits = torch.zeros(3, requires_grad=True)
    for q in (
        OneHotCategoricalStraightThrough(logits=logits),
        Independent(OneHotCategoricalStraightThrough(logits=logits.expand(2, 3)), 1),
    ):
        with pytest.raises(ValueError, match=r"Through.* are discrete.*use StraightThrough"):
            Pathwise()(lambda b: b.flatten(1).sum(-1), q)
