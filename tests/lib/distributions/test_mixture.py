"""Mixture: its path by mpmath far into the tails, by quadrature, coordinate by coordinate."""

import math

import numpy as np
import pytest
import torch
from mpmath import mp
from scipy import stats
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    ContinuousBernoulli,
    Gamma,
    Gumbel,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Uniform,
)

from reparam.distributions import (
    Logistic,
    Mixture,
    TruncatedNormal,
    implicit_reparameterization,
)
from reparam.estimators import Pathwise, ScoreFunction
from reparam.measure import compare, exact_gradient
from tests.lib.statistical import ALARM

F64 = torch.float64


def T(value, dtype=F64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def mixture(logits, loc, scale, family=Normal):
    return Mixture(Categorical(logits=logits), family(loc, scale))


def vectors(logits, loc, scale, family=Normal):
    return Mixture(Categorical(logits=logits), Independent(family(loc, scale), 1))


def at(monkeypatch, z):
    """Samples put in by hand."""
    monkeypatch.setattr(Mixture, "sample", lambda q, shape=(): z)


# --- one variable, against mpmath ----------------------------------------------------------------

#: Distribution function and density at x = (z - loc) / scale.
STANDARD = {
    Normal: (mp.ncdf, mp.npdf),
    Laplace: (
        lambda x: mp.exp(x) / 2 if x < 0 else 1 - mp.exp(-x) / 2,
        lambda x: mp.exp(-abs(x)) / 2,
    ),
    Cauchy: (
        lambda x: mp.atan(x) / mp.pi + mp.mpf(1) / 2,
        lambda x: 1 / (mp.pi * (1 + x**2)),
    ),
    Logistic: (
        lambda x: 1 / (1 + mp.exp(-x)),
        lambda x: mp.exp(-x) / (1 + mp.exp(-x)) ** 2,
    ),
}
LOGITS, LOC, SCALE = [0.2, -0.5, 0.9], [-1.0, 1.5, 0.2], [0.6, 0.9, 1.0]


def exact_slopes(family, z, logits, loc, scale):
    """`dz/dlogit_k = -w_k (F_k - F) / p`, `dz/dloc_k = r_k`, `dz/dscale_k = r_k x_k`.

    `r_k = w_k p_k / p`; with enough digits to tell 1 from 1 - 1e-260.
    """
    cdf, pdf = STANDARD[family]
    with mp.workdps(300):
        weights = [mp.exp(mp.mpf(a)) for a in logits]
        weights = [w / sum(weights) for w in weights]
        x = [(mp.mpf(z) - mp.mpf(m)) / mp.mpf(s) for m, s in zip(loc, scale, strict=True)]
        parts = [w * pdf(y) / mp.mpf(s) for w, y, s in zip(weights, x, scale, strict=True)]
        masses = [cdf(y) for y in x]
        total = sum(w * f for w, f in zip(weights, masses, strict=True))
        density = sum(parts)
        return (
            [float(-w * (f - total) / density) for w, f in zip(weights, masses, strict=True)],
            [float(part / density) for part in parts],
            [float(part / density * y) for part, y in zip(parts, x, strict=True)],
        )


@pytest.mark.parametrize(
    ("family", "dtype", "reach", "close"),
    [
        (Normal, F64, 30.0, 1e-11),
        (Normal, torch.float32, 30.0, 1e-4),
        (Laplace, F64, 600.0, 1e-11),
        (Laplace, torch.float32, 600.0, 1e-4),
        (Logistic, F64, 600.0, 1e-11),
        (Logistic, torch.float32, 600.0, 1e-4),
        (Cauchy, F64, 1e9, 1e-11),
        (Cauchy, torch.float32, 1e9, 1e-4),
    ],
    ids=str,
)
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_every_slope_as_far_out_as_anyone_looks(monkeypatch, family, dtype, reach, close, shift):
    """To 30 standard deviations (densities of 1e-196, in float32 too), relatively, in both tails.

    The slope in a weight is relative to the largest of the three: they add up to 0.
    """
    z = torch.tensor([-1.0, -0.3, -0.1, -0.01, 0.0, 0.02, 0.1, 0.3, 1.0], dtype=dtype) * reach
    z += shift
    at(monkeypatch, z)
    loc = [place + shift for place in LOC]
    leaves = [T([p] * len(z), dtype) for p in (LOGITS, loc, SCALE)]
    path = mixture(*leaves, family).rsample()
    assert torch.equal(path.detach(), z)
    slopes = torch.autograd.grad(path.sum(), leaves)
    for i, point in enumerate(z.tolist()):
        wanted = exact_slopes(family, point, *(leaf[i].tolist() for leaf in leaves))
        for got, exact in zip(slopes, wanted, strict=True):
            largest = max(map(abs, exact))
            assert got[i].tolist() == pytest.approx(exact, rel=close, abs=close * largest)


# --- by quadrature -------------------------------------------------------------------------------


def both_derivatives(value, leaves):
    first = torch.autograd.grad(value, leaves, create_graph=True)
    second = [
        torch.autograd.grad(one, leaves, retain_graph=True, materialize_grads=True)
        for slopes in first
        for one in slopes.flatten()
    ]
    return first, second


@pytest.mark.parametrize("family", [Normal, Gumbel], ids=["symmetric", "by its cdf"])
def test_first_and_second_derivatives_of_an_expectation(monkeypatch, family):
    """`E[cos z + z]` over a grid, where the path alone carries derivatives, against the truth."""
    leaves = logits, loc, scale = T([0.2, -0.5]), T([-1.0, 1.5]), T([0.6, 0.9])
    x, weights = np.polynomial.legendre.leggauss(600)
    z, weights = torch.tensor(20 * x + 15.5), torch.tensor(20 * weights)
    if family is Normal:
        z = z - 15.5
    at(monkeypatch, z)
    q = mixture(logits, loc, scale, family).expand((600,))
    density = q.log_prob(z).exp()
    path = q.rsample()
    estimate = (weights * density.detach() * (torch.cos(path) + path)).sum()
    if family is Normal:
        means = torch.exp(-(scale**2) / 2) * torch.cos(loc) + loc
        exact = (logits.softmax(-1) * means).sum()
    else:  # the same integral, whose density carries the derivatives
        exact = (weights * density * (torch.cos(z) + z)).sum()
    torch.testing.assert_close(
        both_derivatives(estimate, leaves), both_derivatives(exact, leaves), rtol=1e-7, atol=1e-8
    )


def test_vectors_by_quadrature(monkeypatch):
    """`E[sin(z₁) z₂ + z₂²]` over a grid in two dimensions: first and second derivatives."""
    leaves = logits, loc, scale = (
        T([0.2, -0.5]),
        T([[-0.5, 0.3], [0.6, -0.4]]),
        T([[0.8, 0.9], [1.0, 0.7]]),
    )
    x, weights = np.polynomial.legendre.leggauss(90)
    z = torch.cartesian_prod(torch.tensor(9 * x), torch.tensor(9 * x))
    weights = torch.tensor(81 * np.outer(weights, weights).ravel())
    at(monkeypatch, z)
    q = vectors(logits, loc, scale).expand((len(z),))
    path = q.rsample()
    assert torch.equal(path.detach(), z)
    f = lambda z: torch.sin(z[..., 0]) * z[..., 1] + z[..., 1] ** 2  # noqa: E731
    estimate = (weights * q.log_prob(z).exp().detach() * f(path)).sum()
    shift = torch.exp(-(scale[:, 0] ** 2) / 2) * torch.sin(loc[:, 0]) * loc[:, 1]
    exact = (logits.softmax(-1) * (shift + loc[:, 1] ** 2 + scale[:, 1] ** 2)).sum()
    torch.testing.assert_close(
        both_derivatives(estimate, leaves), both_derivatives(exact, leaves), rtol=1e-7, atol=1e-8
    )


@pytest.mark.parametrize("family", [Normal, Logistic, Gumbel])
def test_vectors_coordinate_by_coordinate(family):
    """Four coordinates, each from its own conditional CDF, as Rosenblatt's transform has it."""
    leaves = logits, loc, scale = (
        T([0.3, -0.2, 0.5]),
        torch.randn(3, 4, dtype=F64, requires_grad=True),
        (torch.rand(3, 4, dtype=F64) + 0.5).requires_grad_(),
    )
    z = vectors(logits, loc, scale, family).rsample((6,))
    log_weights, one_by_one = logits, []
    for d in range(4):
        q = family(loc[:, d], scale[:, d], validate_args=False)
        if family is Gumbel:  # torch's own cdf checks its way through a uniform
            component_cdf = lambda z, q=q: torch.exp(-torch.exp((q.loc - z) / q.scale))  # noqa: E731
        else:
            component_cdf = q.cdf
        cdf = lambda z, w=log_weights, F=component_cdf: (w.softmax(-1) * F(z[:, None])).sum(-1)  # noqa: E731
        one_by_one.append(implicit_reparameterization(z[:, d].detach(), cdf))
        log_weights = log_weights + q.log_prob(one_by_one[-1][:, None])
    wanted = torch.stack(one_by_one, -1)
    assert torch.equal(wanted, z)
    f = lambda z: (z.cumprod(-1).sin().sum(-1) + z.square().sum(-1)).sum()  # noqa: E731
    torch.testing.assert_close(
        both_derivatives(f(z), leaves), both_derivatives(f(wanted), leaves), rtol=1e-7, atol=1e-7
    )


def test_vectors_far_out(monkeypatch):
    """25 deviations out in two coordinates: to the second, the first has left one component e^-50.

    In the middle one of the three points the second coordinate overrules that, by e^76.
    """
    z = torch.tensor([[-25.0, 25.0], [25.0, 25.0], [25.0, -25.0]], dtype=F64)
    at(monkeypatch, z)
    leaves = logits, loc, scale = T([0.0, 0.0]), T([[-1.0, 1.0], [1.0, -2.0]]), T([[1.0, 1.0]] * 2)
    q = vectors(logits, loc, scale).expand((3,))
    slopes = [torch.autograd.grad(q.rsample()[i, 1], leaves, retain_graph=True) for i in range(3)]
    for i, (nearest, x) in enumerate(((0, 24.0), (0, 24.0), (1, -23.0))):
        by_logits, by_loc, by_scale = slopes[i]
        assert by_logits.isfinite().all()
        assert by_loc[nearest, 1].item() == pytest.approx(1.0, abs=1e-9)
        assert by_scale[nearest, 1].item() == pytest.approx(x, rel=1e-9)


# --- families ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "components",
    [
        lambda loc, scale: LogNormal(loc, scale),
        lambda loc, scale: TruncatedNormal(loc, scale, -1.5, 4.0),
        lambda loc, scale: Uniform(loc - scale, loc + scale),
    ],
    ids=["log-normal", "truncated", "uniform"],
)
def test_other_families_by_their_cdf(components):
    """`dz = -dF / p`, with `F` and `p` of torch's own mixture."""
    leaves = logits, loc, scale = T([0.2, -0.5]), T([-0.5, 0.6]), T([0.6, 0.9])
    # To torch's check, a value must be possible for every component.
    q = Mixture(Categorical(logits=logits), components(loc, scale), validate_args=False)
    z = q.rsample((400,))
    got = torch.autograd.grad(z.square().sum(), leaves, retain_graph=True)
    z = z.detach()
    density = q.log_prob(z).exp().detach()
    wanted = torch.autograd.grad((-2 * z * q.cdf(z) / density).sum(), leaves)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_samples_are_those_of_torch():
    """The same draws as `MixtureSameFamily`, and the law by Kolmogorov and Smirnov (1e-9)."""
    parts = Categorical(torch.tensor([0.3, 0.7])), Normal(torch.tensor([-1.0, 2.0]), 0.5)
    drawn = []
    for kind in (Mixture, MixtureSameFamily):
        torch.manual_seed(0)
        drawn.append(kind(*parts).sample((50_000,)))
    assert torch.equal(*drawn)
    law = lambda z: 0.3 * stats.norm.cdf(z, -1, 0.5) + 0.7 * stats.norm.cdf(z, 2, 0.5)  # noqa: E731
    assert stats.kstest(drawn[0].double().numpy(), law).pvalue > ALARM


# --- in use --------------------------------------------------------------------------------------

PARAMETERS = {"logits": T([0.2, -0.5]).detach(), "loc": T([-1.0, 1.0]).detach()}


def made(logits, loc):
    return Mixture(Categorical(logits=logits), Normal(loc, 0.8))


def test_estimators_take_it():
    """Pathwise and the score function against quadrature."""
    exact = exact_gradient(torch.square, made, PARAMETERS).gradient
    weights = PARAMETERS["logits"].softmax(-1)
    torch.testing.assert_close(exact["loc"], 2 * weights * PARAMETERS["loc"], atol=1e-7, rtol=0)
    estimators = {
        "pathwise": Pathwise(),
        "implicit": Pathwise(implicit=True),
        "score": ScoreFunction(),
    }
    table = compare(estimators, torch.square, made, PARAMETERS, replicates=5000)
    assert [row.biased for row in table.rows] == [False] * 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("make", [mixture, vectors])
def test_narrow_types_are_computed_in_float32(make, dtype):
    shape = (2, 3) if make is vectors else (2,)
    leaves = [T([0.2, -0.5], dtype), torch.randn(shape).to(dtype), torch.ones(shape).to(dtype)]
    wide = [p.detach().float().requires_grad_() for p in leaves]
    drawn = []
    for parameters in (leaves, wide):
        torch.manual_seed(0)
        z = make(*parameters).rsample((100,))
        drawn.append((z, torch.autograd.grad(z.float().sum(), parameters[0])[0]))
    (narrow, slope), (exact, exact_slope) = drawn
    assert narrow.dtype == slope.dtype == dtype
    assert torch.equal(narrow, exact.to(dtype))
    torch.testing.assert_close(slope, exact_slope.to(dtype))
    log_prob = make(*leaves).log_prob(narrow)
    assert log_prob.dtype == dtype
    torch.testing.assert_close(log_prob, make(*wide).log_prob(narrow.float()).to(dtype))


def test_shapes():
    q = mixture(torch.zeros(2), torch.zeros(3, 2), torch.ones(2))
    assert q.batch_shape == q.rsample().shape == q.mean.shape == (3,)
    assert q.rsample((0,)).shape == q.log_prob(torch.zeros(0, 3)).shape == (0, 3)
    assert q.rsample((4, 5)).shape == q.log_prob(torch.zeros(4, 5, 3)).shape == (4, 5, 3)
    assert q.expand((7, 3)).rsample((2,)).shape == (2, 7, 3)
    assert mixture(torch.zeros(1), torch.zeros(3, 1), torch.ones(1)).rsample((0,)).shape == (0, 3)
    wide = mixture(torch.zeros(5, 1, 2), torch.zeros(3, 2), torch.ones(2))
    assert wide.batch_shape == wide.rsample().shape == (5, 3)
    q = vectors(torch.zeros(2), torch.zeros(2, 4), torch.ones(2, 4))
    assert (q.batch_shape, q.event_shape) == ((), (4,))
    assert q.rsample((6,)).shape == (6, 4)
    assert q.rsample((0,)).shape == (0, 4)
    assert q.log_prob(torch.zeros(0, 4)).shape == (0,)
    assert q.expand((3,)).rsample().shape == (3, 4)
    assert "Mixture(\n" in repr(q) and "SameFamily" not in repr(q)
    assert isinstance(q.expand((3,)), Mixture)


def test_no_graph_where_nothing_wants_one():
    q = mixture(torch.zeros(2), torch.zeros(2), torch.ones(2))
    assert not q.rsample().requires_grad
    q = mixture(T([0.0, 1.0]), T([0.0, 1.0]), T([1.0, 1.0]))
    assert q.rsample().requires_grad and not q.sample().requires_grad
    with torch.no_grad():
        assert not q.rsample().requires_grad


def quiet(logits, loc):
    return Mixture(
        Categorical(logits=logits, validate_args=False),
        Normal(loc, torch.ones_like(loc), validate_args=False),
        validate_args=False,
    )


def test_under_func_and_compile():
    """Together the locations move every sample by as much."""
    logits, loc = torch.tensor([0.2, -0.5]), torch.tensor([-1.0, 1.0])
    mean = lambda logits, loc: quiet(logits, loc).rsample((50,)).mean()  # noqa: E731
    by_loc = torch.func.grad(mean, 1)(logits, loc)
    assert by_loc.sum().item() == pytest.approx(1.0, abs=1e-5)
    _, forward = torch.func.jvp(lambda loc: mean(logits, loc), (loc,), (torch.ones(2),))
    assert forward.item() == pytest.approx(1.0, abs=1e-5)
    rows = torch.func.vmap(torch.func.grad(mean, 1), randomness="different")
    many = rows(logits.expand(4, 2), loc.expand(4, 2))
    torch.testing.assert_close(many.sum(-1), torch.ones(4))
    assert len(many[:, 0].unique()) == 4
    leaf = loc.clone().requires_grad_()
    torch.compile(mean, backend="aot_eager")(logits, leaf).backward()
    assert leaf.grad.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_the_slope_in_a_weight_is_that_of_the_gap(monkeypatch):
    """What the docstring warns of: between modes at ±m, `exp(m²/2) sqrt(pi/8)`; at them, tame."""
    for m in (2.0, 5.0, 8.0):
        at(monkeypatch, torch.tensor([0.0, m], dtype=F64))
        logits = T([[0.0, 0.0]] * 2)
        q = mixture(logits, torch.tensor([-m, m], dtype=F64), torch.ones(2, dtype=F64))
        (slope,) = torch.autograd.grad(q.rsample().sum(), logits)
        shared = math.erf(m / math.sqrt(2))
        gap = shared * math.exp(m**2 / 2) * math.sqrt(math.pi / 8)
        assert slope[0, 1].item() == pytest.approx(gap, rel=1e-9)
        assert abs(slope[1, 1].item()) < 1


# --- bad input -----------------------------------------------------------------------------------

WEIGHTS = Categorical(T([0.3, 0.7]))


@pytest.mark.parametrize(
    ("components", "error", "says"),
    [
        (lambda: Bernoulli(T([0.3, 0.7])), ValueError, "continuous components.*Bernoulli.*Score"),
        (
            lambda: MultivariateNormal(T([[0.0]] * 2), torch.eye(1, dtype=F64)),
            ValueError,
            "one dimension each.*got MultivariateNormal.*MixtureSameFamily",
        ),
        (lambda: Independent(Normal(T([[[0.0]]] * 2), 1.0), 2), ValueError, "one dimension each"),
        (lambda: 3, ValueError, "one dimension each.*got 3"),
        (lambda: Normal(T([0.0, 1.0, 2.0]), 1.0), ValueError, "does not equal"),
        (lambda: Normal(torch.zeros(2), 1.0), ValueError, "weights and loc must share dtype"),
        (
            lambda: Gamma(T([1.0, 2.0]), 1.0),
            ValueError,
            "a cdf that torch can .*Gamma has none: use",
        ),
        (lambda: Beta(T([1.0, 2.0]), 1.0), ValueError, "a cdf that torch can .*Beta has none: use"),
    ],
)
def test_bad_input(components, error, says):
    with pytest.raises(error, match=says):
        Mixture(WEIGHTS, components()).rsample()


def test_other_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="Categorical"):
        Mixture(Normal(0.0, 1.0), Normal(T([0.0, 1.0]), 1.0))
    narrow = torch.tensor([0.2, 0.7], dtype=torch.bfloat16)
    q = Mixture(Categorical(logits=narrow), ContinuousBernoulli(probs=narrow))
    with pytest.raises(ValueError, match=r"16-bit .* ContinuousBernoulli .*give it float32"):
        q.rsample()
    q = Mixture(WEIGHTS, Uniform(T([0.0, 1.0]), T([0.5, 1.5])))
    at(monkeypatch, torch.tensor(0.7, dtype=F64))
    with pytest.raises(ValueError, match=r"the density of the mixture is 0 .*use float64"):
        q.rsample()
