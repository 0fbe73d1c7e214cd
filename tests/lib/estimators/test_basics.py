"""The three estimators: by hand on shared noise, exactly by enumeration, and on bad input."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    Exponential,
    Independent,
    MultivariateNormal,
    Normal,
    Pareto,
    Uniform,
)

from reparam.estimators import Enumeration, Pathwise, ScoreFunction
from reparam.estimators._contract import _depends_on
from tests.lib.statistical import check_mean

F64 = torch.float64


def T(*values):
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=F64, requires_grad=True)


class Fixed(Normal):
    """A normal distribution whose noise is given."""

    eps = None

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.eps.to(self.loc).expand(
            *sample_shape, *self.batch_shape
        )

    def sample(self, sample_shape=()):
        return self.rsample(sample_shape).detach()


# --- per sample ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_per_sample_formulas(dtype, device):
    """`f = z³`: pathwise `3z²` and `3z² ε`; score function `z³ ε/σ` and `z³ (ε² - 1)/σ`."""
    options = dict(dtype=dtype, device=device)
    mu = torch.tensor([0.3, -1.0], **options).requires_grad_()
    sigma = torch.tensor([2.0, 0.5], **options).requires_grad_()
    for estimator in (Pathwise(), ScoreFunction()):
        torch.manual_seed(2)
        estimate = estimator(lambda z: z**3, Normal(mu, sigma), num_samples=5)
        got = torch.autograd.grad(estimate.sum(), (mu, sigma))
        torch.manual_seed(2)
        z = Normal(mu, sigma).sample((5,))
        eps = (z - mu.detach()) / sigma.detach()
        if isinstance(estimator, Pathwise):
            expected = 3 * z**2, 3 * z**2 * eps
        else:
            expected = z**3 * eps / sigma, z**3 * (eps**2 - 1) / sigma
        assert estimate.shape == (2,)
        torch.testing.assert_close(estimate.detach(), (z**3).mean(0))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b.mean(0).detach(), rtol=1e-4, atol=1e-5)


def test_parameters_of_f_get_their_gradient():
    for estimator in (Pathwise(), ScoreFunction(), Enumeration()):
        w = T(2.0)
        q = Bernoulli(T(0.3)) if estimator != Pathwise() else Normal(T(0.3), 1.0)
        seen = []
        estimate = estimator(lambda z: (seen.append(z), w * z**2)[1], q, num_samples=4)  # noqa: B023
        estimate.backward()
        weight = q.log_prob(seen[0]).exp() if estimator == Enumeration() else 1 / 4
        torch.testing.assert_close(w.grad, (weight * seen[0] ** 2).sum().detach())


# --- exactly: over all of the noise --------------------------------------------------------------


@pytest.mark.parametrize("logits", [False, True])
def test_score_function_of_a_categorical_has_the_right_mean(monkeypatch, logits):
    """Its gradient at every outcome, weighted with its probability, is the gradient."""
    values = torch.tensor([1.0, -2.0, 5.0], dtype=F64)
    p = T([0.2, 0.3, 0.5])
    make = (lambda p: Categorical(logits=p)) if logits else Categorical
    mean = 0.0
    for k in range(3):
        monkeypatch.setattr(
            Categorical, "sample", lambda self, shape, k=k: torch.full((*shape,), k)
        )
        (g,) = torch.autograd.grad(ScoreFunction()(lambda b: values[b], make(p)), p)
        mean = mean + make(p).probs[k].detach() * g
    normalized = p.softmax(0) if logits else p / p.sum()
    (exact,) = torch.autograd.grad((normalized * values).sum(), p)
    torch.testing.assert_close(mean, exact)


@pytest.mark.parametrize("estimator", [Pathwise(), ScoreFunction()], ids=str)
def test_gauss_hermite_expectation_of_gradient_and_hessian(estimator):
    """First and second derivatives of `E[z⁴] = μ⁴ + 6μ²σ² + 3σ⁴`, by quadrature over the noise."""
    import numpy as np

    x, w = np.polynomial.hermite_e.hermegauss(12)
    w = torch.tensor(w / w.sum())
    mu, sigma = T(0.7), T(1.3)
    copies = mu.expand(12), sigma.expand(12)
    Fixed.eps = torch.tensor(x)
    estimate = (estimator(lambda z: z**4, Fixed(*copies)) * w).sum()
    m, s = 0.7, 1.3
    assert estimate.item() == pytest.approx(m**4 + 6 * m**2 * s**2 + 3 * s**4)
    g = torch.autograd.grad(estimate, (mu, sigma), create_graph=True)
    assert g[0].item() == pytest.approx(4 * m**3 + 12 * m * s**2)
    assert g[1].item() == pytest.approx(12 * m**2 * s + 12 * s**3)
    hessian = [
        [float(h) for h in torch.autograd.grad(a, (mu, sigma), retain_graph=True)] for a in g
    ]
    assert hessian[0] == pytest.approx([12 * m**2 + 12 * s**2, 24 * m * s])
    assert hessian[1] == pytest.approx([24 * m * s, 12 * m**2 + 36 * s**2])


@pytest.mark.parametrize("kind", [Pathwise, ScoreFunction, Enumeration])
def test_estimators_are_values(kind):
    """Two of a kind are one key of a dict, and nobody changes a shared one."""
    assert len({kind(), kind()}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().max_points = 3


def test_nesting_is_exact(monkeypatch):
    """A score function over `a` outside, an enumeration over `b` inside: `E[(a + 2b - 1)²]`."""
    alpha, beta = T(0.3), T(0.6)

    def outer(a):
        inner = Bernoulli(beta.expand(a.shape))
        return Enumeration()(lambda b: (a + 2 * b - 1) ** 2, inner)

    mean = torch.zeros(2, dtype=F64)
    for a, weight in ((0.0, 0.7), (1.0, 0.3)):
        monkeypatch.setattr(
            Bernoulli, "sample", lambda self, shape, a=a: torch.full((*shape,), a, dtype=F64)
        )
        estimate = ScoreFunction()(outer, Bernoulli(alpha), num_samples=3)
        mean += weight * torch.stack(torch.autograd.grad(estimate, (alpha, beta)))
    exact = sum(
        (alpha if a else 1 - alpha) * (beta if b else 1 - beta) * (a + 2 * b - 1) ** 2
        for a in (0, 1)
        for b in (0, 1)
    )
    torch.testing.assert_close(mean, torch.stack(torch.autograd.grad(exact, (alpha, beta))))


# --- variances and means -------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "sigma"), [(1.0, 1.0), (0.5, 2.0)])
def test_variances_against_closed_forms(a, sigma):
    """`z²` at mean a: pathwise `4σ²`, score function `a⁴/σ² + 14a² + 15σ²`; `2a` is the mean."""
    n = 200_000
    truth = {Pathwise(): 4 * sigma**2, ScoreFunction(): a**4 / sigma**2 + 14 * a**2 + 15 * sigma**2}
    for estimator, variance in truth.items():
        mu = torch.full((n,), a, dtype=F64, requires_grad=True)
        estimator(torch.square, Normal(mu, sigma)).sum().backward()
        check_mean(mu.grad.mean(), 2 * a, variance, n, catches=0.25)
        assert mu.grad.var().item() == pytest.approx(variance, rel=0.1)


# --- where users take it -------------------------------------------------------------------------


def test_under_torch_func():
    for estimator in (Pathwise(), ScoreFunction()):

        def loss(mu, estimator=estimator):
            return estimator(torch.square, Normal(mu, 1.0, validate_args=False)).sum()

        torch.manual_seed(0)
        got = torch.func.grad(loss)(torch.ones(3))
        torch.manual_seed(0)
        mu = torch.ones(3, requires_grad=True)
        torch.testing.assert_close(got, torch.autograd.grad(loss(mu), mu)[0])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [Pathwise(), ScoreFunction()], ids=str)
def test_under_torch_compile(estimator):
    def loss(mu):
        return estimator(torch.square, Normal(mu, 1.0, validate_args=False)).sum()

    mu = torch.ones(3, requires_grad=True)
    torch.manual_seed(0)
    expected = torch.autograd.grad(loss(mu), mu)[0]
    torch.manual_seed(0)
    compiled = torch.compile(loss, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(mu), mu)[0], expected)


@pytest.mark.parametrize(
    "q",
    [
        Normal(torch.zeros(2, 3), 1.0),
        MultivariateNormal(torch.zeros(2, 3), torch.eye(3)),
        Exponential(torch.ones(())),
        Independent(Normal(torch.zeros(4, 2), 1.0), 2),
        Independent(Normal(torch.zeros(2, 1), 1.0), 1),
    ],
    ids=lambda q: type(q).__name__,
)
@pytest.mark.parametrize("estimator", [Pathwise(), ScoreFunction()], ids=str)
def test_shapes(estimator, q):
    shapes = []

    def f(z):
        shapes.append(z.shape)
        return z.flatten(1 + len(q.batch_shape)).sum(-1) if q.event_shape else z

    assert estimator(f, q, num_samples=6).shape == q.batch_shape
    assert shapes == [(6, *q.batch_shape, *q.event_shape)]


# --- bad input -----------------------------------------------------------------------------------

NORMAL = Normal(torch.zeros(2, requires_grad=True), 1.0)
COIN = Bernoulli(torch.tensor([0.3, 0.4], requires_grad=True))
ALL = [(Pathwise(), NORMAL), (ScoreFunction(), NORMAL), (Enumeration(), COIN)]


@pytest.mark.parametrize(("estimator", "q"), ALL, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize(
    ("f", "error", "says"),
    [
        (3, TypeError, "f must be a function of the samples, got int"),
        (lambda z: 1.0, TypeError, r"must return a tensor of shape .* got float"),
        (lambda z: z.sum(-1), ValueError, "one value for each sample.*sum event dimensions"),
        (lambda z: z.mean(), ValueError, r"got shape \(\)"),
        (lambda z: z * math.nan, ValueError, "f returned NaN for"),
        (lambda z: z.long(), TypeError, "floating-point values, got torch.int64"),
        (lambda z: z.to("meta"), ValueError, "must return values on cpu.*got meta"),
    ],
)
def test_bad_f(estimator, q, f, error, says):
    with pytest.raises(error, match=says):
        estimator(f, q)


@pytest.mark.parametrize(("estimator", "q"), ALL, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize(
    ("samples", "error", "says"),
    [
        (0, ValueError, "num_samples must be at least 1, got 0"),
        (2.0, TypeError, "num_samples must be an int, got float"),
        (True, TypeError, "num_samples must be an int, got bool"),
    ],
)
def test_bad_num_samples(estimator, q, samples, error, says):
    with pytest.raises(error, match=says):
        estimator(torch.square, q, samples)


@pytest.mark.parametrize(("estimator", "q"), ALL, ids=lambda x: type(x).__name__)
def test_bad_distributions(estimator, q):
    with pytest.raises(TypeError, match=r"Distribution, got Tensor"):
        estimator(torch.square, torch.ones(2))
    with pytest.raises(ValueError, match=r"empty: batch_shape \(0,\)"):
        estimator(torch.square, Normal(torch.zeros(0), torch.ones(0)))
    with pytest.raises(ValueError, match=r"empty: .*event_shape \(0,\)"):
        estimator(torch.square, Independent(Normal(torch.zeros(2, 0), 1.0), 1))


def test_pathwise_refuses_what_has_no_path():
    with pytest.raises(ValueError, match=r"rsample, and Independent\(Bernoulli\) has none"):
        Pathwise()(lambda z: z.sum(-1), Independent(COIN, 1))
    for f in (lambda z: (z > 0).float(), lambda z: z.detach() ** 2, lambda z: torch.ones(z.shape)):
        with pytest.raises(ValueError, match="does not depend on the sample through a graph"):
            Pathwise()(f, NORMAL)
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="does not depend on the sample"):
        Pathwise()(lambda z: w * z.detach(), NORMAL)
    Pathwise()(lambda z: (z > 0).float(), Normal(0.0, 1.0))  # nothing wants a gradient

    def doubled(z):  # 2**60 ways through the graph, none of them to z
        y = w.expand(z.shape)
        for _ in range(60):
            y = (y + y) / 2
        return y

    with pytest.raises(ValueError, match="does not depend on the sample"):
        Pathwise()(doubled, NORMAL)


def test_score_function_refuses_a_moving_support():
    theta = torch.tensor(2.0, requires_grad=True)
    for q in (Uniform(0.0, theta), Uniform(theta - 3, 5.0), Pareto(theta, 1.0)):
        with pytest.raises(ValueError, match=f"{type(q).__name__} does: use Pathwise"):
            ScoreFunction()(torch.square, q)
    ScoreFunction()(lambda z: theta * z, Uniform(0.0, 2.0)).backward()
    moved = Independent(Uniform(torch.zeros(2), theta.expand(2)), 1)
    with pytest.raises(ValueError, match="support moves"):
        ScoreFunction()(lambda z: z.sum(-1), moved)


def test_a_graph_leads_back_to_leaves_and_to_results():
    leaf = T(1.0, 2.0)
    result, other = leaf.exp(), T(1.0, 2.0)
    for z in (leaf, result):
        assert _depends_on((3 * z).sum(), z)
        assert not _depends_on((3 * other).sum(), z)
