"""Measure-valued gradients: exactly, by quadrature over their noise; their variances; couplings."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Chi2,
    Exponential,
    Gamma,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
)

from reparam.estimators import MeasureValued, Pathwise, measure_valued
from tests.lib.statistical import check_count

F64 = torch.float64


def T(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


# --- exactly: over all of the noise --------------------------------------------------------------


class Noise:
    """Every draw of noise is scripted: a node of a quadrature for each entry of the batch."""

    def __init__(self, monkeypatch, family, **draws):
        self.queues = {name: [torch.as_tensor(d, dtype=F64) for d in draws[name]] for name in draws}
        monkeypatch.setattr(
            family, "sample", lambda q, shape: self.next("sample").expand(*shape, -1)
        )
        monkeypatch.setattr(
            measure_valued, "exponential_noise", lambda size, **_: self.next("exp").expand(size)
        )
        monkeypatch.setattr(torch, "randn_like", lambda z: self.next("normal").expand(z.shape))

    def next(self, name):
        return self.queues[name].pop(0)


def gradients(estimator, f, family, nodes, **parameters):
    """The gradient estimate at every node, by parameter."""
    copies = {k: T(v).detach().repeat(nodes).requires_grad_() for k, v in parameters.items()}
    estimate = estimator(f, family(**copies))
    return dict(
        zip(copies, torch.autograd.grad(estimate.sum(), tuple(copies.values())), strict=True)
    )


def moments(weights, gradient):
    weights = torch.as_tensor(weights, dtype=F64)
    assert weights.sum().item() == pytest.approx(1, abs=1e-11)
    mean = (weights * gradient).sum()
    return mean.item(), ((weights * gradient**2).sum() - mean**2).item()


def legendre(*breaks, nodes=40):
    """Gauss-Legendre nodes and weights on the intervals between `breaks`."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    pairs = list(itertools.pairwise(breaks))
    xs = [a + (b - a) * (x + 1) / 2 for a, b in pairs]
    return np.concatenate(xs), np.concatenate([(b - a) / 2 * w for a, b in pairs])


def rayleigh(*breaks):
    """Exponential noise `e` whose `w = √(2e)` are Gauss-Legendre nodes, and their weights."""
    w, weights = legendre(0, *breaks, 12, nodes=80)
    return w**2 / 2, weights * w * np.exp(-(w**2) / 2)


def maxwell(jump=None):
    """Normal and exponential noise, in the coordinates `m` (Maxwell) and `u` (uniform)."""
    points = [-12.0, *([jump, 0.0] if jump and jump < 0 else [0.0, jump] if jump else [0.0]), 12.0]
    x, e, weights = [], [], []
    for m, weight in zip(*legendre(*points, nodes=60), strict=True):
        inside = jump is not None and 0 < jump / m < 1
        u, w = legendre(0, *([jump / m] if inside else []), 1, nodes=24)
        x.append(m * u)
        e.append(m**2 * (1 - u**2) / 2)
        # the density of both noises, and m² for the change of coordinates
        weights.append(weight * w * m**2 * np.exp(-(m**2) / 2) / math.sqrt(2 * math.pi))
    return tuple(np.concatenate(part) for part in (x, e, weights))


SMOOTH = lambda z: torch.cos(1.3 * z) + 0.2 * z**3  # noqa: E731
JUMP = 0.4
STEP = lambda z: (z > JUMP).to(z.dtype)  # noqa: E731


def normal_truth(f, mu, sigma):
    """∂/∂μ and ∂/∂σ of the closed form of `E[f]`."""
    mu, sigma = T(mu), T(sigma)
    if f is SMOOTH:
        value = torch.exp(-0.5 * 1.69 * sigma**2) * torch.cos(1.3 * mu)
        value = value + 0.2 * (mu**3 + 3 * mu * sigma**2)
    else:
        value = torch.special.ndtr((mu - JUMP) / sigma)
    return [g.item() for g in torch.autograd.grad(value, (mu, sigma))]


@pytest.mark.parametrize("f", [SMOOTH, STEP], ids=["smooth", "step"])
@pytest.mark.parametrize("mu", [-0.3, 1.1])
def test_normal_by_quadrature(monkeypatch, f, mu):
    """Coupled, at smooth functions and at a step, where the pathwise gradient would be 0."""
    sigma = 0.7
    exact = normal_truth(f, mu, sigma)
    jump = (JUMP - mu) / sigma
    e, weights = rayleigh(abs(jump))
    Noise(monkeypatch, Normal, sample=[mu + 0 * e], exp=[e])
    loc = lambda loc: Normal(loc, torch.full_like(loc, sigma))  # noqa: E731
    g = gradients(MeasureValued(), f, loc, len(e), loc=mu)["loc"]
    assert moments(weights, g)[0] == pytest.approx(exact[0], abs=1e-9)

    x, e, weights = maxwell(jump)
    Noise(monkeypatch, Normal, sample=[mu + sigma * x], exp=[e])
    scale = lambda scale: Normal(torch.full_like(scale, mu), scale)  # noqa: E731
    g = gradients(MeasureValued(), f, scale, len(e), scale=sigma)["scale"]
    assert moments(weights, g)[0] == pytest.approx(exact[1], abs=1e-9)


def test_normal_variances_for_a_square(monkeypatch):
    """Coupled: `16μ²/π - 4μ²` and `4μ² + 4σ²`; pathwise has `4σ²` and `4μ² + 8σ²`.

    The first from `4μ W / √(2π)`; the second from `2μ(M - N) + σ(M² - N²)`, where
    `E(M - N)² = E M² E(1 - U)² = 1` and `M² - N² = 2E`. Uncoupled the variances of both parts add:
    `(4μ² (2 - π/2) + 4σ²)/π` and `16μ² + 8σ²`.
    """
    mu, sigma = 0.8, 0.6
    loc = lambda loc: Normal(loc, torch.full_like(loc, sigma))  # noqa: E731
    scale = lambda scale: Normal(torch.full_like(scale, mu), scale)  # noqa: E731

    e, weights = rayleigh()
    Noise(monkeypatch, Normal, sample=[mu + 0 * e], exp=[e])
    g = gradients(MeasureValued(), torch.square, loc, len(e), loc=mu)["loc"]
    assert moments(weights, g) == pytest.approx((2 * mu, 16 * mu**2 / math.pi - 4 * mu**2))

    first, second = (grid.ravel() for grid in np.meshgrid(e, e))
    Noise(monkeypatch, Normal, sample=[mu + 0 * first], exp=[first, second])
    g = gradients(MeasureValued(coupled=False), torch.square, loc, len(first), loc=mu)["loc"]
    variance = (4 * mu**2 * (2 - math.pi / 2) + 4 * sigma**2) / math.pi
    assert moments(np.outer(weights, weights).ravel(), g) == pytest.approx((2 * mu, variance))

    x, e, weights = maxwell()
    Noise(monkeypatch, Normal, sample=[mu + sigma * x], exp=[e])
    g = gradients(MeasureValued(), torch.square, scale, len(e), scale=sigma)["scale"]
    assert moments(weights, g) == pytest.approx((2 * sigma, 4 * mu**2 + 4 * sigma**2))

    own, w = np.polynomial.hermite_e.hermegauss(5)
    w = w / w.sum()
    Noise(
        monkeypatch,
        Normal,
        sample=[mu + sigma * np.repeat(own, len(e))],
        normal=[np.tile(x, 5)],
        exp=[np.tile(e, 5)],
    )
    uncoupled = MeasureValued(coupled=False)
    g = gradients(uncoupled, torch.square, scale, 5 * len(e), scale=sigma)["scale"]
    found = moments(np.outer(w, weights).ravel(), g)
    assert found == pytest.approx((2 * sigma, 16 * mu**2 + 8 * sigma**2))


def gamma_nodes(concentration, rate, nodes=8):
    """Gauss-Laguerre: exact for polynomials."""
    x, w = special.roots_genlaguerre(nodes, concentration - 1)
    return x / rate, w / w.sum()


@pytest.mark.parametrize("concentration", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("coupled", [True, False])
def test_gamma_and_exponential_by_quadrature(monkeypatch, concentration, coupled):
    """`E[z²] = α(α+1)/β²`; the variance is `α² (4α² + 24α + 20) / β⁶` when coupled.

    From `-(α/β) (2ze + e²)` with `E(2ze + e²)² = 8α(α+1) + 24α + 24` and mean `2α + 2` at `β = 1`.
    Uncoupled it is `α² [V(α) + V(α+1)] / β⁶` with `V(α)` the variance of the square.
    """
    a, rate = concentration, 1.3
    z, wz = gamma_nodes(a, rate)
    e, we = gamma_nodes(1.0, 1.0)
    axes = (z, e) if coupled else (z, z, e)
    grids = [g.ravel() for g in np.meshgrid(*axes, indexing="ij")]
    parts = np.meshgrid(*((wz, we) if coupled else (wz, wz, we)), indexing="ij")
    weights = np.prod([p.ravel() for p in parts], axis=0)
    if a == 1:
        family, make = Exponential, Exponential
    else:
        family, make = Gamma, lambda rate: Gamma(torch.full_like(rate, a), rate)
    Noise(monkeypatch, family, sample=grids[:-1], exp=grids[-1:])
    g = gradients(MeasureValued(coupled), torch.square, make, len(grids[0]), rate=rate)["rate"]

    def square_variance(a):
        return a * (a + 1) * (a + 2) * (a + 3) - (a * (a + 1)) ** 2

    variance = (
        4 * a**2 + 24 * a + 20 if coupled else square_variance(a) + square_variance(a + 1)
    ) * (a**2 / rate**6)
    assert moments(weights, g) == pytest.approx((-2 * a * (a + 1) / rate**3, variance))


def test_exponential_at_a_step(monkeypatch):
    """`P(z > a) = exp(-λa)`, exactly, by pieces that end where either part jumps."""
    rate, z, e, weights = 1.3, [], [], []
    for point, weight in zip(*legendre(0, JUMP, 30), strict=True):
        crossing = rate * (JUMP - point)
        x, w = legendre(0, *([crossing] if crossing > 0 else []), 40)
        z.append(point + 0 * x)
        e.append(x)
        weights.append(weight * w * np.exp(-x) * rate * np.exp(-rate * point))
    z, e, weights = map(np.concatenate, (z, e, weights))
    Noise(monkeypatch, Exponential, sample=[z], exp=[e])
    g = gradients(MeasureValued(), STEP, Exponential, len(z), rate=rate)["rate"]
    assert moments(weights, g)[0] == pytest.approx(-JUMP * math.exp(-rate * JUMP), abs=1e-9)


@pytest.mark.parametrize("coupled", [True, False])
def test_poisson_by_summation(monkeypatch, coupled):
    """`E[k²] = λ² + λ`, and `(k + 1)² - k² = 2k + 1` has the variance `4λ`."""
    rate = 1.7
    k = np.arange(40.0)
    p = np.exp(k * np.log(rate) - rate - special.gammaln(k + 1))
    if coupled:
        draws, weights, variance = [k], p, 4 * rate
    else:
        draws = [g.ravel() for g in np.meshgrid(k, k)]
        weights = np.outer(p, p).ravel()
        variance = sum((p * j**4).sum() - (p * j**2).sum() ** 2 for j in (k, k + 1))
    Noise(monkeypatch, Poisson, sample=draws)
    g = gradients(MeasureValued(coupled), torch.square, Poisson, len(weights), rate=rate)["rate"]
    assert moments(weights, g) == pytest.approx((2 * rate + 1, variance))


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_bernoulli_over_every_outcome(monkeypatch, kind):
    """Three bits that `f` mixes, a batch of 8: one entry for each outcome."""
    theta = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    given = theta if kind == "probs" else theta.logit()
    outcomes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=F64)
    weight = lambda t: (t * outcomes + (1 - t) * (1 - outcomes)).prod(-1)  # noqa: E731
    f = lambda b: (b[..., 0] - 0.3) ** 2 * b[..., 1] + 5 * (b.sum(-1) == 2)  # noqa: E731
    leaf = given.clone().requires_grad_()
    exact = torch.autograd.grad(
        (weight(leaf if kind == "probs" else leaf.sigmoid()) * f(outcomes)).sum(), leaf
    )[0]
    monkeypatch.setattr(Bernoulli, "sample", lambda q, shape: outcomes.expand(*shape, 8, 3))
    copies = given.expand(8, 3).clone().requires_grad_()
    estimate = MeasureValued()(f, Independent(Bernoulli(**{kind: copies}), 1))
    torch.testing.assert_close(estimate.detach(), f(outcomes))
    (g,) = torch.autograd.grad(estimate.sum(), copies)
    torch.testing.assert_close((weight(theta).unsqueeze(-1) * g).sum(0), exact)


@pytest.mark.parametrize("kind", ["probs", "logits"])
@pytest.mark.parametrize("family", [Categorical, OneHotCategorical])
def test_categorical_over_every_outcome(monkeypatch, kind, family):
    """Two variables of three classes that `f` mixes, one entry of the batch for each outcome."""
    p = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=F64)
    table = torch.randn(3, 3, dtype=F64)
    outcomes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    hot = torch.nn.functional.one_hot(outcomes, 3).to(F64)

    def f(z):
        k = z if family is Categorical else z.argmax(-1)
        return table[k[..., 0], k[..., 1]]

    weight = lambda p: (p * hot).sum(-1).prod(-1)  # noqa: E731
    given = (p if kind == "probs" else p.log() + 1).requires_grad_()
    normalized = given / given.sum(-1, keepdim=True) if kind == "probs" else given.softmax(-1)
    (exact,) = torch.autograd.grad((weight(normalized) * table.flatten()).sum(), given)
    z = outcomes if family is Categorical else hot
    monkeypatch.setattr(family, "sample", lambda q, shape: z.expand(*shape, *z.shape))
    copies = given.detach().expand(9, 2, 3).clone().requires_grad_()
    estimate = MeasureValued()(f, Independent(family(**{kind: copies}), 1))
    (g,) = torch.autograd.grad(estimate.sum(), copies)
    torch.testing.assert_close((weight(p.detach())[:, None, None] * g).sum(0), exact)


def test_a_single_categorical_or_bernoulli_variable_has_no_variance():
    """The other values of `f` do not depend on the draw: each gradient is the exact one."""
    c = torch.tensor([1.0, -2.0, 5.0], dtype=F64)
    p = T([0.2, 0.3, 0.5])
    (exact,) = torch.autograd.grad((p / p.sum() * c).sum(), p)
    for _ in range(20):
        (g,) = torch.autograd.grad(MeasureValued()(lambda k: c[k], Categorical(p)), p)
        torch.testing.assert_close(g, exact)
        theta = T(0.3)
        MeasureValued()(lambda b: (b - 0.45) ** 2, Bernoulli(theta)).backward()
        assert theta.grad.item() == pytest.approx(0.1)


@pytest.mark.parametrize("family", [Categorical, OneHotCategorical])
def test_a_class_of_probability_zero_has_a_slope_by_its_probability_and_none_by_its_logit(family):
    """By the probability, `f(k) - E[f]`, which needs `f` where no sample goes; by the logit, 0."""
    heights = torch.tensor([1.0, 4.0, -5.0], dtype=F64)

    def f(z):
        return heights[z.argmax(-1) if family is OneHotCategorical else z]

    probs, logits = T([0.25, 0.75, 0.0]), T([0.0, math.log(3), -math.inf])
    for parameter, distribution, expected in (
        (probs, family(probs=probs), heights - 3.25),
        (logits, family(logits=logits), probs.detach() * (heights - 3.25)),
    ):
        estimate = MeasureValued()(f, distribution, num_samples=3)
        (slope,) = torch.autograd.grad(estimate, parameter)
        torch.testing.assert_close(slope, expected)


def test_one_class_has_nothing_to_replace():
    logits = T([[0.3], [0.7]])
    value = MeasureValued()(lambda k: 2.0 + k, Categorical(logits=logits), num_samples=3)
    assert value.tolist() == [2, 2]
    (g,) = torch.autograd.grad(value.sum(), logits)
    assert (g == 0).all()


# --- per sample ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("coupled", [True, False])
def test_one_variable_at_a_time_by_hand(monkeypatch, coupled, dtype, device):
    """A batch of 2 with events of 2×3 normal variables: loops over every one of them."""
    options = dict(dtype=dtype, device=device)
    loc = torch.randn(2, 2, 3, **options).requires_grad_()
    scale = (torch.rand(2, 2, 3, **options) + 0.5).requires_grad_()
    f = lambda z: torch.sin(z.sum(-1)).prod(-1) + (z > 0.2).sum((-1, -2))  # noqa: E731
    noises = []

    def recorded(size, **kwargs):
        noises.append(torch.rand(size, **kwargs) + 0.1)
        return noises[-1]

    normals = []
    draw = torch.randn
    monkeypatch.setattr(measure_valued, "exponential_noise", recorded)
    monkeypatch.setattr(
        torch, "randn_like", lambda z: (normals.append(draw(z.shape, **options)), normals[-1])[1]
    )
    seen = []
    q = Independent(Normal(loc, scale), 2)
    estimate = MeasureValued(coupled)(lambda z: (seen.append(z), f(z))[1], q, num_samples=3)
    got = torch.autograd.grad(estimate.sum(), (loc, scale))
    z = seen[0]
    assert [len(part) for part in seen] == [3, 3 * 6 * 3]  # f at draws, then 2 + 1 for each of 6
    torch.testing.assert_close(estimate.detach(), f(z).mean(0))
    mu, sigma = loc.detach(), scale.detach()
    up = (2 * noises[0]).sqrt()
    down = up if coupled else (2 * noises[1]).sqrt()
    normal = (z - mu) / sigma if coupled else normals[0]
    m = normal.sign() * (normal**2 + 2 * noises[-1]).sqrt()
    expected = torch.zeros_like(mu), torch.zeros_like(mu)
    for i, j in itertools.product(range(2), range(3)):

        def with_this(new, i=i, j=j):
            changed = z.clone()
            changed[..., i, j] = new[..., i, j]
            return f(changed)

        difference = with_this(mu + sigma * up) - with_this(mu - sigma * down)
        expected[0][..., i, j] = difference.mean(0) / (sigma[..., i, j] * math.sqrt(2 * math.pi))
        difference = with_this(mu + sigma * m) - f(z)
        expected[1][..., i, j] = difference.mean(0) / sigma[..., i, j]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def points_of(estimator, q, num_samples):
    """What `f` gets: the draws of `q`, and each replacement in turn."""
    seen = []
    estimator(lambda z: (seen.append(z), 0.0 * z)[1], q, num_samples)
    return seen[0], *seen[1].split(num_samples)


def test_couplings_sample_by_sample():
    n = 20_000
    mu, sigma = T(0.3), T(2.0)
    z, up, down, far = points_of(MeasureValued(), Normal(mu, sigma), n)
    torch.testing.assert_close(up + down, torch.full_like(z, 0.6))
    assert (up > mu).all()
    normal, m = (z - 0.3) / 2, (far - 0.3) / 2
    u = normal / m
    assert ((u > 0) & (u < 1)).all()  # N = M·U for every draw, and U is uniform, whatever M is
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (u > low) & (u < low + 0.25)
        check_count(inside.sum(), n, 0.25)
        large = m.abs() > 1.5382  # the median of the Maxwell distribution
        check_count((inside & large).sum(), n, 0.125)

    rate = T(1.3)
    for q in (Exponential(rate), Gamma(2.0, rate)):
        z, longer = points_of(MeasureValued(), q, n)
        assert (longer > z).all()
        step = (longer - z) * 1.3
        for threshold in (0.3, 1.0, 2.0):
            check_count((step > threshold).sum(), n, math.exp(-threshold))
            above = z > z.median()
            check_count((above & (step > threshold)).sum(), n, math.exp(-threshold) / 2)
    k, more = points_of(MeasureValued(), Poisson(rate), n)
    assert torch.equal(more, k + 1)
    b, flipped = points_of(MeasureValued(), Bernoulli(T(0.3)), n)
    assert torch.equal(flipped, 1 - b)


def test_uncoupled_parts_know_nothing_of_each_other():
    n = 20_000
    uncoupled = MeasureValued(coupled=False)
    z, up, down, far = points_of(uncoupled, Normal(T(0.0), T(1.0)), n)
    median = math.sqrt(2 * math.log(2))
    for one, other in ((up > median, down < -median), (z > 0, far > 0)):
        check_count((one & other).sum(), n, 0.25)
    for q in (Exponential(T(1.3)), Gamma(2.0, T(1.3)), Poisson(T(1.3))):
        z, longer = points_of(uncoupled, q, n)
        assert (longer < z).any()
        centered = (z - z.mean()) * (longer - longer.mean())
        assert abs(centered.mean()) < 6 * centered.std() / math.sqrt(n)
    for q in (Bernoulli(T(0.3)), Categorical(T([0.3, 0.7]))):  # nothing random in their parts
        torch.manual_seed(1)
        a = points_of(uncoupled, q, 5)
        torch.manual_seed(1)
        assert all(map(torch.equal, a, points_of(MeasureValued(), q, 5)))


# --- what it costs and what it gives --------------------------------------------------------------


@pytest.mark.parametrize(
    "make, extra",
    [
        (lambda: Normal(T([[0.0] * 3] * 2), 1.0), 2 * 3),
        (lambda: Normal(torch.zeros(2, 3, dtype=F64), T([[1.0] * 3] * 2)), 3),
        (lambda: Bernoulli(T([[0.5] * 3] * 2)), 3),
        (lambda: Bernoulli(logits=T([[0.5] * 3] * 2)), 3),
        (lambda: OneHotCategorical(T([[[0.25] * 4] * 3] * 2)), 3 * 3),
        (lambda: Poisson(T([[0.5] * 3] * 2)), 3),
        (lambda: Gamma(torch.ones(2, 3, dtype=F64), T([[0.5] * 3] * 2)), 3),
        (lambda: Normal(torch.zeros(2, 3), 1.0), None),
        (lambda: Categorical(torch.ones(2, 3, 4)), None),
        (lambda: Bernoulli(torch.full((2, 3), 0.5)), None),
        (lambda: Poisson(torch.ones(2, 3)), None),
        (lambda: Exponential(torch.ones(2, 3)), None),
    ],
)
def test_only_what_wants_a_gradient_is_paid_for(make, extra):
    q = Independent(make(), 1)
    calls = []

    def f(z):
        calls.append(len(z))
        return z.double().reshape(len(z), 2, -1).sum(-1)

    estimate = MeasureValued()(f, q, num_samples=5)
    assert calls == ([5] if extra is None else [5, 5 * extra])
    assert estimate.shape == (2,) and estimate.requires_grad == (extra is not None)
    with torch.no_grad():
        MeasureValued()(f, q, num_samples=5)
    assert calls[-1] == 5 and len(calls) == (2 if extra is None else 3)


def test_replacements_leave_no_graph_and_the_decoder_gets_the_plain_gradient():
    w, theta = T(2.0), T([0.2, 0.7])
    seen = []

    def f(b):
        values = (w * b**2).sum(-1)
        seen.append((b, values.requires_grad))
        return values

    MeasureValued()(f, Independent(Bernoulli(theta), 1), num_samples=4).backward()
    assert [graph for _, graph in seen] == [True, False]
    torch.testing.assert_close(w.grad, seen[0][0].sum(-1).mean())
    torch.testing.assert_close(theta.grad, torch.full_like(theta, 2.0))


def test_parameters_in_f_count_as_well():
    rate = T(2.0)
    MeasureValued()(lambda z: rate**3 + z, Poisson(rate)).backward()
    assert rate.grad.item() == pytest.approx(3 * 4 + 1)


def test_infinite_values_at_the_draws_do_not_spoil_the_loc():
    """The draws of `q` have no part in that gradient."""
    loc = T(0.0)
    calls = iter([lambda z: torch.full_like(z, math.inf), torch.clone])
    MeasureValued()(lambda z: next(calls)(z), Normal(loc, 1.0)).backward()
    assert loc.grad.isfinite()


def test_a_second_derivative_is_refused():
    theta = T(0.3)
    for q in (Bernoulli(logits=theta), Poisson(theta.exp())):
        estimate = MeasureValued()(torch.square, q)
        (g,) = torch.autograd.grad(estimate, theta, create_graph=True)
        with pytest.raises(NotImplementedError, match="MeasureValued has first derivatives only"):
            torch.autograd.grad(g, theta)


def test_under_func_and_compile():
    def loss(logits):
        return MeasureValued()(lambda b: b.prod(-1), Independent(Bernoulli(logits=logits), 1))

    logits = torch.tensor([2.0, -1.0], dtype=F64)
    torch.manual_seed(0)
    first = torch.func.grad(loss)(logits)
    leaf = logits.clone().requires_grad_()
    torch.manual_seed(0)
    loss(leaf).backward()
    torch.testing.assert_close(first, leaf.grad)

    def normal(loc):
        return MeasureValued()(torch.square, Normal(loc, torch.ones_like(loc)), 2000).sum()

    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    torch.compile(normal, backend="aot_eager")(leaf).backward()
    assert ((leaf.grad - torch.tensor([2.0, 4.0])).abs() < 0.3).all()  # 6 standard deviations


def test_it_is_a_value():
    assert MeasureValued() == MeasureValued(coupled=True) != MeasureValued(False)
    assert hash(MeasureValued()) == hash(MeasureValued(True))
    with pytest.raises(AttributeError):
        MeasureValued().coupled = False


# --- bad input -----------------------------------------------------------------------------------


def test_what_has_no_decomposition():
    wanted = T(1.0)
    for q, name in (
        (Beta(wanted, 1.0), "Beta"),
        (Independent(Beta(wanted.expand(2), 1.0), 1), r"Independent\(Beta\)"),
        (MultivariateNormal(T([0.0]), torch.eye(1, dtype=F64)), "MultivariateNormal"),
    ):
        with pytest.raises(ValueError, match=f"got {name}: use Pathwise if it has rsample"):
            MeasureValued()(torch.square, q)
    for q, name in (
        (Gamma(wanted, 1.0), "concentration of Gamma"),
        (Chi2(wanted), "df of Chi2"),
    ):
        with pytest.raises(ValueError, match=f"no decomposition for the {name}.*use Pathwise"):
            MeasureValued()(torch.square, q)
    Pathwise()(torch.square, Gamma(wanted, 1.0))  # as the message says
    with torch.no_grad():
        assert MeasureValued()(torch.square, Gamma(wanted, 1.0)) > 0
    with pytest.raises(TypeError, match=r"coupled must be True or False, got int \(1\)"):
        MeasureValued(coupled=1)
    with pytest.raises(ValueError, match="NaN for 1 of 1"):  # at the replacement only
        MeasureValued()(lambda z: torch.where(z > 0, math.nan, 1.0), Poisson(T(1e-9)))
