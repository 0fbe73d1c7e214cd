"""`implicit_reparameterization`: against explicit paths, mpmath, and what it must refuse."""

import math

import numpy as np
import pytest
import torch
from mpmath import mp
from torch.distributions import Normal
from torch.nn.functional import logsigmoid

from reparam.distributions import implicit_reparameterization

F64 = torch.float64


def T(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


def normal_cdf(x):
    return torch.special.ndtr(x)


def derivatives(f, leaves):
    """First ones, and every second one."""
    first = torch.autograd.grad(f, leaves, create_graph=True)
    second = [
        torch.autograd.grad(one.sum(), leaves, retain_graph=True, materialize_grads=True)
        for one in first
    ]
    return first, second


# --- right ---------------------------------------------------------------------------------------

U = torch.linspace(0.001, 0.999, 37, dtype=F64)


@pytest.mark.parametrize(
    ("cdf", "inverse"),
    [
        (lambda z, a, b: torch.sigmoid((z - a) / b), lambda u, a, b: a + b * torch.logit(u)),
        (
            lambda z, a, b: -torch.expm1(-((z / a) ** b)),
            lambda u, a, b: a * (-(-u).log1p()) ** (1 / b),
        ),
        (lambda z, a, b: 1 - (1 - z**a) ** b, lambda u, a, b: (1 - (1 - u) ** (1 / b)) ** (1 / a)),
        (lambda z, a, b: 1 - (a / z) ** b, lambda u, a, b: a * (1 - u) ** (-1 / b)),
        (
            lambda z, a, b: torch.exp(-torch.exp((a - z) / b)),
            lambda u, a, b: a - b * (-u.log()).log(),
        ),
    ],
    ids=["logistic", "weibull", "kumaraswamy", "pareto", "gumbel"],
)
def test_first_and_second_derivatives_are_those_of_the_inverse(cdf, inverse):
    """Where `F⁻¹` is a formula there is an explicit path, and both must be one."""
    a, b = T([0.7] * 37), T([1.6] * 37)
    explicit = inverse(U, a, b)
    implicit = implicit_reparameterization(explicit, lambda z: cdf(z, a, b))
    assert torch.equal(implicit.detach(), explicit.detach())
    for got, wanted in zip(
        derivatives((implicit.sin() + implicit**3).sum(), (a, b)),
        derivatives((explicit.sin() + explicit**3).sum(), (a, b)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def test_the_concentration_of_a_gamma_by_a_cdf_of_our_own():
    """`F(z; a) = ∫₀ᶻ t^(a-1) e^-t dt / Γ(a)` by quadrature; its path against mpmath."""
    nodes, weights = (torch.tensor(x) for x in np.polynomial.legendre.leggauss(60))

    def cdf(z):
        s = (nodes + 1) / 2  # t = z s¹² makes the integrand smooth at 0
        t = z.unsqueeze(-1) * s**12
        log_integrand = (a - 1).unsqueeze(-1) * t.log() - t - torch.lgamma(a).unsqueeze(-1)
        return (log_integrand.exp() * z.unsqueeze(-1) * 6 * s**11 * weights).sum(-1)

    a = T([0.6, 1.0, 2.5, 2.5])
    z = torch.tensor([0.2, 1.3, 0.9, 6.0], dtype=F64)
    (got,) = torch.autograd.grad(implicit_reparameterization(z, cdf).sum(), a)
    with mp.workdps(40):
        for one, point, slope in zip(a.tolist(), z.tolist(), got.tolist(), strict=True):
            rise = mp.diff(lambda c: mp.gammainc(c, 0, point, regularized=True), one)  # noqa: B023
            density = mp.mpf(point) ** (one - 1) * mp.exp(-point) / mp.gamma(one)
            assert slope == pytest.approx(float(-rise / density), rel=1e-9)


def test_one_variable_after_the_other():
    """Rosenblatt's transform of correlated Gaussians: the explicit path is a Cholesky factor's."""
    mu, scale, slope = T([0.3, -1.0]), T([0.7, 1.9]), T(0.8)
    eps = torch.randn(500, 2, dtype=F64)
    first = mu[0] + scale[0] * eps[:, 0]
    second = mu[1] + slope * first + scale[1] * eps[:, 1]
    z1 = implicit_reparameterization(first, lambda z: normal_cdf((z - mu[0]) / scale[0]))
    z2 = implicit_reparameterization(
        second, lambda z: normal_cdf((z - mu[1] - slope * z1) / scale[1])
    )
    f = lambda x, y: ((x * y).sin() + y**2).mean()  # noqa: E731
    leaves = (mu, scale, slope)
    for got, wanted in zip(
        derivatives(f(z1, z2), leaves), derivatives(f(first, second), leaves), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_with_the_density_given(dtype, device):
    """It replaces the derivative of `cdf`; value and slopes are those without it."""
    loc = torch.tensor([0.5, 2.0], dtype=dtype, device=device, requires_grad=True)
    q = Normal(loc, 1.3)
    z = q.sample((50,))
    for log_prob in (None, q.log_prob):
        path = implicit_reparameterization(z, q.cdf, log_prob)
        assert torch.equal(path.detach(), z)
        (slope,) = torch.autograd.grad(path.sum(), loc)
        torch.testing.assert_close(slope, torch.full_like(loc, 50.0))


def test_bfloat16_keeps_the_sample_and_a_slope_to_its_digits():
    loc = torch.tensor([0.5, 2.0], dtype=torch.bfloat16, requires_grad=True)
    z = torch.tensor([[1.0, -0.5], [0.25, 3.0]], dtype=torch.bfloat16)
    path = implicit_reparameterization(z, lambda z: torch.sigmoid(z - loc))
    assert torch.equal(path.detach(), z)
    (slope,) = torch.autograd.grad(path.sum(), loc)
    torch.testing.assert_close(slope, torch.full_like(loc, 2.0), rtol=0.05, atol=0)


def test_in_bfloat16_a_density_may_be_a_few_per_cent_beside_the_slope():
    loc = torch.zeros(41, dtype=torch.bfloat16, requires_grad=True)
    z = torch.linspace(-4, 4, 41).bfloat16()
    log_prob = lambda z: logsigmoid(z - loc) + logsigmoid(loc - z)  # noqa: E731
    path = implicit_reparameterization(z, lambda z: torch.sigmoid(z - loc), log_prob)
    (slope,) = torch.autograd.grad(path.sum(), loc)
    torch.testing.assert_close(slope, torch.ones_like(loc), rtol=0.05, atol=0)


def test_the_rate_of_a_gamma_has_a_path_though_its_concentration_has_none():
    rate, z = T(1.7), torch.tensor([0.3, 2.0], dtype=F64)
    concentration = torch.tensor(2.5, dtype=F64)
    path = implicit_reparameterization(z, lambda z: torch.special.gammainc(concentration, rate * z))
    (slope,) = torch.autograd.grad(path.sum(), rate)
    torch.testing.assert_close(slope, -z.sum() / rate.detach())


def test_the_value_is_the_sample_whatever_rounding_does():
    """With a `cdf` that gives another last digit at each call, as one that is compiled may."""
    loc, calls = T([0.5, 2.0]), []

    def cdf(z):
        calls.append(z)
        return torch.sigmoid(z - loc) + 1e-9 * len(calls)

    z = torch.tensor([1.0, -3.0], dtype=F64)
    assert torch.equal(implicit_reparameterization(z, cdf).detach(), z)


def test_no_graph_where_nothing_wants_one():
    loc, z = T(0.5), torch.zeros(3, dtype=F64)
    cdf = lambda z: torch.sigmoid(z - loc)  # noqa: E731
    with torch.no_grad():
        assert not implicit_reparameterization(z, cdf).requires_grad
    assert not implicit_reparameterization(z, torch.sigmoid).requires_grad
    old = T([1.0, 2.0])
    (slope,) = torch.autograd.grad(
        implicit_reparameterization(old, cdf).sum(), old, allow_unused=True
    )
    assert slope is None  # the sample's own graph is cut


# --- transforms ----------------------------------------------------------------------------------


def loss(loc):
    z = torch.tensor([[1.0, -2.0], [3.0, 0.1]], dtype=F64)
    return (implicit_reparameterization(z, lambda z: torch.sigmoid(2 * (z - loc))) ** 2).sum()


def test_under_func_and_compile():
    """The path moves with `loc`: the gradient is `Σ 2 z`, the Hessian twice the rows."""
    loc = torch.tensor([0.5, 2.0], dtype=F64)
    slope = torch.tensor([8.0, -3.8], dtype=F64)
    torch.testing.assert_close(torch.func.grad(loss)(loc), slope)
    torch.testing.assert_close(torch.func.jacfwd(loss)(loc), slope)
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(loc)
    torch.testing.assert_close(hessian, 4 * torch.eye(2, dtype=F64))
    both = torch.func.vmap(torch.func.grad(loss))(torch.stack([loc, loc + 1]))
    torch.testing.assert_close(both, slope.expand(2, 2))
    leaf = loc.clone().requires_grad_()
    torch.compile(loss, backend="aot_eager")(leaf).backward()
    torch.testing.assert_close(leaf.grad, slope)


# --- bad input -----------------------------------------------------------------------------------

Z = torch.tensor([[1.0, -2.0], [3.0, 0.1]], dtype=F64)
LOC = T([0.5, 2.0])


def cdf(z):
    return torch.sigmoid(z - LOC)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((Z.int(), cdf), TypeError, "z must hold floating-point"),
        ((1.0, cdf), TypeError, "z must be a tensor, got float"),
        ((Z[:0], cdf), ValueError, "z is empty"),
        ((Z / 0, cdf), ValueError, "z holds infinity"),
        ((Z * math.nan, cdf), ValueError, "z holds NaN"),
        ((Z, 3), TypeError, "cdf must be a function of z, got int"),
        ((Z, cdf, 3), TypeError, "log_prob must be a function of z, got int"),
        ((Z, lambda z: 0.5), ValueError, "cdf must return a tensor like z, got float"),
        ((Z, lambda z: cdf(z).sum(-1)), ValueError, "of shape .*2, 2.*got .*2.*of its own"),
        ((Z, lambda z: cdf(z).float()), ValueError, "of dtype torch.float64, got torch.float32"),
        ((Z, lambda z: 3 * cdf(z)), ValueError, "must return probabilities, got 1.8.* at z = 1"),
        ((Z, lambda z: -cdf(z)), ValueError, "must return probabilities, got -0.62.* at z = 1"),
        ((Z, lambda z: cdf(z) * math.nan), ValueError, "must return probabilities, got nan"),
        ((Z, lambda z: 1 - cdf(z)), ValueError, "must increase, and its slope is -0.2.* 4 of 4"),
        ((Z, lambda z: cdf(z.detach())), ValueError, "slope is 0 at 4 of 4.*through no graph"),
        ((Z, lambda z: torch.full_like(z, 0.5)), ValueError, "slope is 0 at 4 of 4"),
        ((Z, lambda z: cdf(1000 * z)), ValueError, "slope is 0 at .*far tail.*use float64"),
        ((Z, lambda z: cdf(z - z.mean())), ValueError, "entry of z by itself, and it mixes"),
        ((Z, lambda z: cdf(z.flip(0))), ValueError, "entry of z by itself, and it mixes"),
        (
            (Z.abs(), lambda z: torch.special.gammainc(LOC, z)),
            ValueError,
            "derivative that torch does not have.*incomplete gamma",
        ),
        ((Z, cdf, Normal(LOC, 1.0).log_prob), ValueError, "log_prob must be the logarithm of the"),
        ((Z, cdf, lambda z: cdf(z).log().sum()), ValueError, "log_prob must return a tensor like"),
        (
            (Z, lambda z: cdf(z.flip(0)), lambda z: Normal(LOC, 1.0).log_prob(z)),
            ValueError,
            "log_prob must be the logarithm of the derivative of cdf",
        ),
    ],
)
def test_bad_input(arguments, error, says):
    with pytest.raises(error, match=says):
        implicit_reparameterization(*arguments)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda z: z.roll(1, 0),
        lambda z: z.roll(1, 1),
        lambda z: z.cumsum(0),
        lambda z: z.cumsum(1),
        lambda z: z - z.mean(0),
        lambda z: z + 0.1 * z.mean(),
        lambda z: z + 0.005 * z.mean(),
    ],
)
def test_mixed_rows_are_found_whichever_way_they_mix(mixed):
    """One sign for each entry tells them apart, for neighbors as for those a row apart."""
    z = torch.randn(3, 5, dtype=F64)
    with pytest.raises(ValueError, match="mixes"):
        implicit_reparameterization(z, lambda z: torch.sigmoid(mixed(z) - LOC[0]))


def test_the_slope_of_a_far_tail_may_be_off_and_nowhere_else():
    """Rounding spoils it there; `log_prob` is what counts."""

    def steep(beyond):
        def cdf(x):
            p = normal_cdf(x)
            return p + 0.05 * torch.where(x.abs() >= beyond, p - p.detach(), torch.zeros_like(p))

        return cdf

    log_prob = torch.distributions.Normal(T(0.0), 1.0).log_prob
    for z in (-4.0, 4.0):
        implicit_reparameterization(T([z]).detach(), steep(3.5), log_prob)
    for z in (-1.0, 1.0):
        with pytest.raises(ValueError, match="log_prob must be the logarithm"):
            implicit_reparameterization(T([z]).detach(), steep(0.5), log_prob)


def test_a_tail_that_is_flat_is_refused_whatever_the_density():
    log_prob = torch.distributions.Normal(T(0.0), 1.0).log_prob
    z = torch.tensor([4.0], dtype=F64)
    for cdf, log_density in (
        (lambda x: normal_cdf(x.clamp(max=3.5)), log_prob),
        (normal_cdf, lambda x: log_prob(x) - 2000),
    ):
        with pytest.raises(ValueError, match="cdf must increase"):
            implicit_reparameterization(z, cdf, log_density)
