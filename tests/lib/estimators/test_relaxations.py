"""GumbelSoftmax, StraightThrough, GumbelRao, ReinMax: exact means, by enumeration and quadrature.

They are biased, so that what they are held against is not the gradient but what the theory says
of each: its mean, its bias, where that vanishes, its variance.
"""

import dataclasses
import math

import pytest
import torch
from scipy import integrate
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    Normal,
    OneHotCategorical,
)
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

from reparam.estimators import (
    Enumeration,
    GumbelRao,
    GumbelSoftmax,
    ReinMax,
    StraightThrough,
    _relaxing,
)
from tests.lib.estimators.noise_nodes import (
    F64,
    logistic_nodes,
    patch_noise,
    patch_outcomes,
)

ALL = [
    GumbelSoftmax(0.5),
    GumbelSoftmax(0.5, hard=True),
    StraightThrough(),
    StraightThrough("identity"),
    StraightThrough("argmax"),
    GumbelRao(0.5, 4),
    ReinMax(),
    ReinMax(0.7),
]
each = pytest.mark.parametrize("estimator", ALL, ids=str)
first_order_only = pytest.mark.parametrize("estimator", ALL[1:], ids=str)


def logit(theta):
    return math.log(theta / (1 - theta))


def exact_mean(f, theta):
    """`E[f(b)]` and its derivative with respect to the logit, as plain numbers."""
    low, high = (float(f(torch.tensor(b, dtype=F64))) for b in (0.0, 1.0))
    return (1 - theta) * low + theta * high, theta * (1 - theta) * (high - low)


def gradients(estimator, f, logits, make):
    """The estimate and its gradient, for each entry of a batch."""
    logits = logits.clone().requires_grad_()
    estimate = estimator(f, make(logits))
    (gradient,) = torch.autograd.grad(estimate.sum(), logits)
    return estimate.detach(), gradient


def bit_mean(monkeypatch, estimator, f, theta):
    """Mean value and gradient over both outcomes of one bit."""
    patch_outcomes(monkeypatch, Bernoulli, torch.tensor([0.0, 1.0], dtype=F64))
    logits = torch.full((2,), logit(theta), dtype=F64)
    value, gradient = gradients(estimator, f, logits, lambda x: Bernoulli(logits=x))
    weight = torch.tensor([1 - theta, theta], dtype=F64)
    return (weight * value).sum().item(), (weight * gradient).sum().item()


def class_mean(monkeypatch, estimator, f, logits):
    """Mean value and gradient over all classes of one variable."""
    count = len(logits)
    patch_outcomes(monkeypatch, OneHotCategorical, torch.eye(count, dtype=F64))
    copies = logits.detach().expand(count, count)
    value, gradient = gradients(estimator, f, copies, lambda x: OneHotCategorical(logits=x))
    weight = logits.softmax(-1)
    return (weight * value).sum(), (weight[:, None] * gradient).sum(0)


def class_truth(f, logits):
    logits = logits.detach().clone().requires_grad_()
    value = Enumeration()(f, OneHotCategorical(logits=logits))
    return value.detach(), torch.autograd.grad(value, logits)[0]


def relaxed_bit_mean(monkeypatch, estimator, f, theta, temperature):
    """Mean and second moment of the gradient of one relaxed bit, and the mean value.

    By quadrature over the logistic noise, with break points around the step of the sigmoid.
    """
    center = -logit(theta)
    breaks = [center + k * temperature for k in (-37, -20, -10, -5, -2, 0, 2, 5, 10, 20, 37)]
    nodes, weights = logistic_nodes(breaks)
    patch_noise(monkeypatch, "logistic_noise", nodes[None])
    logits = torch.full_like(nodes, logit(theta))
    value, gradient = gradients(estimator, f, logits, lambda x: Bernoulli(logits=x))
    return [(weights * a).sum().item() for a in (value, gradient, gradient**2)]


# --- the figures of the course's correction page --------------------------------------------------


def test_straight_through_can_have_the_wrong_sign(monkeypatch):
    """C16: θ = 0.2, `(b - 0.3)²`: -0.032 for 0.064, derivatives with respect to the logit."""

    def f(b):
        return (b - 0.3) ** 2

    value, truth = exact_mean(f, 0.2)
    assert truth == pytest.approx(0.064)
    mean, gradient = bit_mean(monkeypatch, StraightThrough(), f, 0.2)
    assert mean == pytest.approx(value)
    assert gradient == pytest.approx(-0.032)
    _, gradient = bit_mean(monkeypatch, StraightThrough("identity"), f, 0.2)
    assert gradient == pytest.approx(2 * (0.2 - 0.3))
    logits = torch.tensor(logit(0.2), dtype=F64, requires_grad=True)
    state = torch.get_rng_state()
    estimate = StraightThrough("argmax")(f, Bernoulli(logits=logits), num_samples=5)
    assert torch.equal(torch.get_rng_state(), state), "argmax draws nothing"
    assert estimate.item() == pytest.approx(0.09)
    assert torch.autograd.grad(estimate, logits)[0].item() == pytest.approx(-0.6)


@pytest.mark.parametrize(("theta", "figure"), [(0.6, 0.1522), (0.4, 0.1512)])
def test_the_bias_of_the_hard_relaxation_does_not_vanish(monkeypatch, theta, figure):
    """C17: `(y - 0.3)⁴`, θ = 0.6, τ = 0.01: 0.152 for 0.0557; the soft one's bias halves with τ."""

    def f(y):
        return (y - 0.3) ** 4

    truth = exact_mean(f, theta)[1]
    assert truth == pytest.approx(0.0557, abs=5e-5)
    hard, soft = (
        [
            relaxed_bit_mean(monkeypatch, GumbelSoftmax(t, hard), f, theta, t)[1] - truth
            for t in (0.01, 0.005)
        ]
        for hard in (True, False)
    )
    assert truth + hard[0] == pytest.approx(figure, abs=5e-5)
    trapezoid = theta * (1 - theta) * (4 * 0.7**3 - 4 * 0.3**3) / 2
    assert truth + 2 * hard[1] - hard[0] == pytest.approx(trapezoid, rel=1e-4)
    assert abs(soft[0]) < 3e-4
    assert soft[0] / soft[1] == pytest.approx(2, rel=0.03)


# --- GumbelSoftmax --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_soft_gradient_is_that_of_the_relaxed_mean(monkeypatch, temperature):
    """Against the derivative of torch's relaxed *density*, integrated by SciPy."""
    theta = 0.3

    def f(y):
        return torch.sin(3 * y) + y**2

    def relaxed(with_slope):
        def integrand(level):
            x = torch.tensor(logit(theta), dtype=F64, requires_grad=True)
            q = LogitRelaxedBernoulli(torch.tensor(temperature, dtype=F64), logits=x)
            level = torch.tensor(level, dtype=F64)
            p = q.log_prob(level).exp()
            p = torch.autograd.grad(p, x)[0] if with_slope else p.detach()
            return float(f(level.sigmoid()) * p)

        ends = 40 / temperature
        return integrate.quad(integrand, -ends, ends, points=[-5, 0, 5], epsabs=1e-10)[0]

    value, gradient, _ = relaxed_bit_mean(
        monkeypatch, GumbelSoftmax(temperature), f, theta, temperature
    )
    assert value == pytest.approx(relaxed(False), abs=1e-8)
    assert gradient == pytest.approx(relaxed(True), abs=1e-8)
    assert abs(value - exact_mean(f, theta)[0]) > 0.01, "the relaxed mean is not the mean"


def test_hard_value_is_unbiased_and_linear_functions_too_as_the_temperature_falls(monkeypatch):
    value, gradient, _ = relaxed_bit_mean(
        monkeypatch, GumbelSoftmax(0.01, hard=True), lambda b: 3 * b, 0.3, 0.01
    )
    assert value == pytest.approx(0.9)
    assert gradient == pytest.approx(0.63, rel=1e-3)


def test_variance_grows_like_one_over_the_temperature(monkeypatch):
    """The second moment of `f = y²` tends to `p(0)/τ ∫ (2y)² y (1 - y) dy`, `p(0) = θ (1 - θ)`."""
    far, near = (
        t * relaxed_bit_mean(monkeypatch, GumbelSoftmax(t), torch.square, 0.3, t)[2]
        for t in (0.01, 0.005)
    )
    limit = 0.21 * 4 * (1 / 4 - 1 / 5)
    assert near == pytest.approx(limit, rel=3e-3)
    assert 2 * near - far == pytest.approx(limit, rel=2e-5)  # less the term of order τ


def test_two_classes_are_one_bit(monkeypatch):
    """Classes of logits `(l, 0)` and noise `(G, 0)` are a bit of logit `l` and noise `G`."""
    noise = torch.linspace(-5, 5, 11, dtype=F64)
    x = torch.full((11,), 0.4, dtype=F64)
    for hard in (False, True):
        patch_noise(monkeypatch, "logistic_noise", noise[None])
        patch_noise(monkeypatch, "gumbel_noise", torch.stack([noise, 0 * noise], -1)[None])
        estimator = GumbelSoftmax(0.4, hard)
        one = gradients(estimator, torch.sin, x, lambda x: Bernoulli(logits=x))
        two = gradients(
            estimator,
            lambda b: torch.sin(b[..., 0]),
            x,
            lambda x: OneHotCategorical(logits=torch.stack([x, 0 * x], -1)),
        )
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a, b)


# --- StraightThrough ------------------------------------------------------------------------------


def test_straight_through_formulas_per_sample(device):
    """`θ (1 - θ) g`, `π ∘ (g - π·g)`; the identity, through torch's normalized logits."""
    x = torch.tensor([[0.3, -1.0, 2.0]], dtype=F64, device=device)
    w = torch.tensor([1.0, -2.0, 0.5], dtype=F64, device=device)
    theta, pi = x.sigmoid(), x.softmax(-1)
    seen = []

    def f(b):
        seen.append(b.detach())
        return ((b * w).sum(-1) - 0.4) ** 3

    def slope():
        return (3 * ((seen[-1] * w).sum(-1, True) - 0.4) ** 2 * w)[0]

    def bits(x):
        return Independent(Bernoulli(logits=x), 1)

    def classes(x):
        return OneHotCategorical(logits=x)

    _, g = gradients(StraightThrough(), f, x, bits)
    torch.testing.assert_close(g, theta * (1 - theta) * slope())
    _, g = gradients(StraightThrough(), f, x, classes)
    torch.testing.assert_close(g, pi * (slope() - (pi * slope()).sum(-1, True)))
    _, g = gradients(StraightThrough("identity"), f, x, bits)
    torch.testing.assert_close(g, slope())
    _, g = gradients(StraightThrough("identity"), f, x, classes)
    torch.testing.assert_close(g, slope() - pi * slope().sum(-1, True))
    _, g = gradients(StraightThrough("argmax"), f, x, bits)
    assert torch.equal(seen[-1], (x > 0).to(F64)[None])
    torch.testing.assert_close(g, slope())
    _, g = gradients(StraightThrough("argmax"), f, x, classes)
    assert torch.equal(seen[-1], torch.eye(3, dtype=F64, device=device)[None, 2:])


def test_straight_through_is_unbiased_for_multilinear_functions(monkeypatch):
    """Bits that enter linearly one by one, products included: exactly unbiased."""
    outcomes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 3)
    x = torch.tensor([0.3, -1.0, 0.8], dtype=F64)

    def f(b):
        return 2 * b[..., 0] * b[..., 1] * b[..., 2] - b[..., 1] * b[..., 2] + 5 * b[..., 0]

    truth = truth_of_bits(f, x)
    patch_outcomes(monkeypatch, Bernoulli, outcomes)
    torch.testing.assert_close(mean_over_bits(StraightThrough(), f, x, outcomes), truth)


def truth_of_bits(f, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(Enumeration()(f, Independent(Bernoulli(logits=x), 1)), x)[0]


def mean_over_bits(estimator, f, x, outcomes):
    copies = x.expand(len(outcomes), len(x))
    _, g = gradients(estimator, f, copies, lambda x: Independent(Bernoulli(logits=x), 1))
    weight = (outcomes * x.sigmoid() + (1 - outcomes) * (-x).sigmoid()).prod(-1)
    return (weight[:, None] * g).sum(0)


# --- GumbelRao ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_gumbel_rao_has_the_mean_of_the_hard_relaxation_and_less_variance(monkeypatch, temperature):
    """Outcome enumerated, conditional noise integrated; all of the noise integrated for the other.

    With one conditional draw the law of the gradient is that of the hard Gumbel-Softmax, second
    moment included; with infinitely many the variance is that of its conditional mean.
    """
    theta, x = 0.3, logit(0.3)

    def f(b):
        return torch.exp(1.3 * b)

    _, mean, moment = relaxed_bit_mean(
        monkeypatch, GumbelSoftmax(temperature, hard=True), f, theta, temperature
    )
    nodes, weights = logistic_nodes([k / 2 for k in range(-60, 60)], count=12)
    outcomes = torch.tensor([0.0, 1.0], dtype=F64).repeat_interleave(len(nodes))
    patch_outcomes(monkeypatch, Bernoulli, outcomes)
    patch_noise(monkeypatch, "logistic_noise", nodes.repeat(2)[None, None])
    _, g = gradients(
        GumbelRao(temperature, 1), f, torch.full_like(outcomes, x), lambda x: Bernoulli(logits=x)
    )
    given = (weights * g.reshape(2, -1)).sum(-1)
    second = (weights * g.reshape(2, -1) ** 2).sum(-1)
    prior = torch.tensor([1 - theta, theta], dtype=F64)
    assert (prior * given).sum().item() == pytest.approx(mean, rel=1e-8)
    assert (prior * second).sum().item() == pytest.approx(moment, rel=1e-8)
    best = (prior * given**2).sum().item() - mean**2
    assert best < 0.75 * (moment - mean**2)


def test_gumbel_rao_per_sample(device):
    """Slope at the sample times the average Jacobian, the noise held fixed; `f` is called once."""
    x = torch.tensor([0.3, -1.0, 2.0], dtype=F64, device=device).requires_grad_()
    w = torch.tensor([1.0, -2.0, 0.5], dtype=F64, device=device)
    calls, drawn = [], []

    class Recording(_relaxing.Classes):
        @staticmethod
        def given(*arguments):
            drawn.append(_relaxing._gumbel_given(*arguments))
            return drawn[-1]

    def f(b):
        calls.append(b.detach())
        return ((b * w).sum(-1) - 0.4) ** 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_relaxing, "Classes", Recording)
        estimate = GumbelRao(0.5, 6)(f, OneHotCategorical(logits=x), num_samples=4)
    (got,) = torch.autograd.grad(estimate, x)
    (b,) = calls
    assert b.shape == (4, 3)
    (z,) = drawn
    assert z.shape == (6, 4, 3)
    torch.testing.assert_close(estimate.detach(), (((b * w).sum(-1) - 0.4) ** 3).mean())
    slope = 3 * ((b * w).sum(-1, True) - 0.4) ** 2 * w
    y = (z / 0.5).softmax(-1)
    jacobian = (torch.diag_embed(y) - y[..., :, None] * y[..., None, :]) / 0.5
    raw = (jacobian.mean(0) @ slope[..., None])[..., 0].mean(0)
    # What the logits of the distribution get is handed on through their normalization.
    torch.testing.assert_close(got, raw - x.detach().softmax(-1) * raw.sum())


# --- ReinMax --------------------------------------------------------------------------------------


def paper(logits, b, temperature):
    """Algorithm 2 of Liu et al. (2023), as published."""
    pi_0 = logits.softmax(-1)
    pi_1 = (b + (logits / temperature).softmax(-1)) / 2
    pi_1 = ((pi_1.log() - logits).detach() + logits).softmax(-1)
    pi_2 = 2 * pi_1 - pi_0 / 2
    return pi_2 - pi_2.detach() + b


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_reinmax_is_the_algorithm_of_the_paper(monkeypatch, temperature, device):
    x = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=F64, device=device).expand(4, 4)
    w = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=F64, device=device)
    eye = torch.eye(4, dtype=F64, device=device)

    def f(b):
        return ((b * w).sum(-1) - 0.4) ** 3

    patch_outcomes(monkeypatch, OneHotCategorical, eye)
    _, got = gradients(ReinMax(temperature), f, x, lambda x: OneHotCategorical(logits=x))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(paper(leaf, eye, temperature)).sum(), leaf)
    torch.testing.assert_close(got, expected)
    patch_outcomes(monkeypatch, OneHotCategorical, eye.unflatten(0, (2, 2)))
    _, got = gradients(
        ReinMax(temperature), f, x.unflatten(0, (2, 2)), lambda x: OneHotCategorical(logits=x)
    )
    torch.testing.assert_close(got.flatten(0, 1), expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_reinmax_for_a_bit_is_that_for_two_classes(monkeypatch, temperature):
    x = torch.tensor([-40.0, -1.0, 0.3, 40.0], dtype=F64).repeat_interleave(2)
    b = torch.tensor([0.0, 1.0], dtype=F64).repeat(4)
    patch_outcomes(monkeypatch, Bernoulli, b)
    patch_outcomes(monkeypatch, OneHotCategorical, torch.stack([b, 1 - b], -1))
    estimator = ReinMax(temperature)
    one = gradients(estimator, torch.exp, x, lambda x: Bernoulli(logits=x))
    two = gradients(
        estimator,
        lambda b: b[..., 0].exp(),
        x,
        lambda x: OneHotCategorical(logits=torch.stack([x, 0 * x], -1)),
    )
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_reinmax_is_unbiased_for_every_quadratic_and_no_further(monkeypatch, classes):
    """At τ = 1. A cubic leaves the error of the trapezoidal rule; other temperatures are biased."""
    x, vector = torch.linspace(-1, 1, classes, dtype=F64), torch.linspace(-1, 2, classes, dtype=F64)
    matrix = torch.randn(classes, classes, dtype=F64)

    def quadratic(b):
        return torch.einsum("...i,ij,...j->...", b, matrix, b) + b @ vector

    value, truth = class_truth(quadratic, x)
    mean, gradient = class_mean(monkeypatch, ReinMax(), quadratic, x)
    torch.testing.assert_close(mean, value)
    torch.testing.assert_close(gradient, truth)
    first_order = class_mean(monkeypatch, StraightThrough(), quadratic, x)[1]
    assert (first_order - truth).abs().max() > 1e-3
    other = class_mean(monkeypatch, ReinMax(2.0), quadratic, x)[1]
    assert (other - truth).abs().max() > 1e-4

    def cubic(b):
        return (b @ vector) ** 3

    slopes = 3 * vector**2  # of the cube, along `vector`, at each class
    pi = x.softmax(-1)
    steps = (slopes[:, None] + slopes) / 2 * (vector[:, None] - vector)
    gradient = class_mean(monkeypatch, ReinMax(), cubic, x)[1]
    torch.testing.assert_close(gradient, pi * (steps * pi).sum(-1))
    assert (gradient - class_truth(cubic, x)[1]).abs().max() > 1e-3


def test_reinmax_for_bits(monkeypatch):
    """One bit: a cube has 3/2 of its gradient. Several: quadratic in each is enough."""
    assert bit_mean(monkeypatch, ReinMax(), lambda b: 7 * b**2 - b, 0.2)[1] == pytest.approx(0.96)
    assert bit_mean(monkeypatch, ReinMax(), lambda b: b**3, 0.2)[1] == pytest.approx(1.5 * 0.16)
    outcomes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 3)
    x = torch.tensor([0.3, -1.0, 0.8], dtype=F64)

    def f(b):
        return ((b - 0.3) ** 2).prod(-1) + b[..., 0] ** 2 * b[..., 1] - 4 * b[..., 2] ** 2

    patch_outcomes(monkeypatch, Bernoulli, outcomes)
    torch.testing.assert_close(mean_over_bits(ReinMax(), f, x, outcomes), truth_of_bits(f, x))


# --- what they share ------------------------------------------------------------------------------


def make_bits(x):
    return Independent(Bernoulli(logits=x), 1)


def make_classes(x):
    return Independent(OneHotCategorical(logits=x.unflatten(-1, (2, 3))), 1)


@each
@pytest.mark.parametrize("make", [make_bits, make_classes])
def test_shapes_decoder_and_batch(estimator, make, device):
    """A value for each entry of the batch, whose gradient stays there; the decoder's is plain."""
    x = torch.randn(5, 6, device=device).requires_grad_()
    decoder = nn.Linear(6, 1).to(device)
    seen = []

    def f(z):
        seen.append(z)
        return decoder(z.reshape(*z.shape[:2], 6)).squeeze(-1) ** 2

    estimate = estimator(f, make(x), num_samples=3)
    assert estimate.shape == (5,)
    (z,) = seen
    assert len(z) == (1 if estimator == StraightThrough("argmax") else 3)
    gradient, weight = torch.autograd.grad(estimate[2], (x, decoder.weight), retain_graph=True)
    assert (gradient[[0, 1, 3, 4]] == 0).all()
    assert gradient[2].abs().sum() > 0
    plain = decoder(z.detach().reshape(-1, 5, 6)[:, 2]).square().mean()
    (expected,) = torch.autograd.grad(plain, decoder.weight)
    torch.testing.assert_close(weight, expected)
    if estimator != GumbelSoftmax(0.5):
        assert ((z == 0) | (z == 1)).all()
    with torch.no_grad():
        assert not estimator(f, make(x)).requires_grad


@each
def test_f_may_use_the_parameters_itself(estimator):
    """Here by a direct path alone: the samples do not matter."""
    x = torch.tensor(0.3, dtype=F64, requires_grad=True)
    (got,) = torch.autograd.grad(estimator(lambda b: 0 * b + 5 * x, Bernoulli(logits=x)), x)
    assert got.item() == 5


def test_soft_relaxation_has_a_hessian():
    """That of the relaxed mean, by differences of its gradient on the same noise."""
    x = torch.tensor([0.3, -0.5], dtype=F64, requires_grad=True)

    def estimate(x):
        torch.manual_seed(0)
        return GumbelSoftmax(0.5)(lambda y: (y.sum(-1) - 0.3) ** 4, make_bits(x), 20)

    assert torch.autograd.gradgradcheck(estimate, x)


@first_order_only
def test_second_derivatives_raise(estimator):
    x = torch.tensor([0.3, -0.5], requires_grad=True)
    estimate = estimator(lambda b: (b.sum(-1) - 0.3) ** 2, make_bits(x))
    (g,) = torch.autograd.grad(estimate, x, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"{type(estimator).__name__}.* first deriv"):
        torch.autograd.grad(g.sum(), x)


@each
def test_under_torch_func_and_compile(estimator):
    def loss(x):
        torch.manual_seed(3)
        return estimator(lambda b: (b.sum(-1) - 0.3) ** 2, make_bits(x), 4).sum()

    x = torch.randn(3, 2, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected)
    compiled = torch.compile(
        lambda x: estimator(lambda b: b.sum(-1) ** 2, make_bits(x), 4).sum(), backend="aot_eager"
    )
    (gradient,) = torch.autograd.grad(compiled(x), x)
    assert gradient.isfinite().all()


@each
def test_sixteen_bits(estimator):
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
        estimate = estimator(lambda b: (b.sum(-1) - 0.3) ** 2, make_bits(x), 4)
        estimate.sum().backward()
        assert estimate.dtype == x.grad.dtype == dtype
        assert x.grad.isfinite().all()


@each
def test_they_nest(estimator):
    """An enumeration inside: `(a - 2 b)²`, `b` summed."""
    x = torch.tensor(0.3, dtype=F64, requires_grad=True)
    seen = []

    def f(a):
        seen.append(a)
        return Enumeration()(lambda b: (a - 2 * b) ** 2, Bernoulli(probs=torch.full_like(a, 0.25)))

    torch.manual_seed(1)
    estimate = estimator(f, Bernoulli(logits=x), 3)
    a = seen[0].detach()
    torch.testing.assert_close(estimate.detach(), (0.75 * a**2 + 0.25 * (a - 2) ** 2).mean())
    torch.manual_seed(1)
    flat = estimator(lambda a: 0.75 * a**2 + 0.25 * (a - 2) ** 2, Bernoulli(logits=x), 3)
    torch.testing.assert_close(*(torch.autograd.grad(e, x)[0] for e in (estimate, flat)))


@pytest.mark.parametrize("kind", [GumbelSoftmax, StraightThrough, GumbelRao, ReinMax])
def test_estimators_are_values(kind):
    defaults = {
        GumbelSoftmax: GumbelSoftmax(1.0, False),
        StraightThrough: StraightThrough("probabilities"),
        GumbelRao: GumbelRao(1.0, 10),
        ReinMax: ReinMax(1.0),
    }
    assert len({kind(), kind(), defaults[kind]}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().temperature = 3


@each
@pytest.mark.parametrize(
    ("f", "make", "error", "says"),
    [
        (torch.square, lambda x: Normal(x, 1.0), ValueError, "got Normal: use Pathwise"),
        (
            lambda k: k.float(),
            lambda x: Categorical(logits=torch.stack([x, x], -1)),
            ValueError,
            r"use OneHotCategorical\(logits=...\)",
        ),
        (lambda b: (b > 0.5).to(b), None, ValueError, "NAME has no gradient .* ScoreFunction"),
        (lambda b: b.detach(), None, ValueError, "NAME has no gradient .* ScoreFunction"),
        (lambda b: b.sum(), None, ValueError, "one value for each sample"),
        (lambda b: b * math.nan, None, ValueError, "NaN for 2 of 2|NaN for 1 of 1"),
        (3, None, TypeError, "f must be a function"),
    ],
)
def test_bad_input(estimator, f, make, error, says):
    x = torch.tensor(0.3, requires_grad=True)
    q = make(x) if make else Bernoulli(logits=x)
    with pytest.raises(error, match=says.replace("NAME", type(estimator).__name__)):
        estimator(f, q, 2)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: GumbelSoftmax(0), ValueError, "positive and finite, got 0: .* ScoreFunction"),
        (lambda: GumbelSoftmax(torch.tensor(1.0)), TypeError, "got a tensor: use temperature.item"),
        (lambda: GumbelSoftmax(1.0, hard=1), TypeError, "hard must be True or False"),
        (lambda: GumbelRao(-1.0), ValueError, "got -1.0"),
        (lambda: GumbelRao(1.0, 0), ValueError, "conditional_samples must be at least 1"),
        (lambda: ReinMax(math.inf), ValueError, "got inf"),
        (lambda: ReinMax("1"), TypeError, "must be a positive number"),
        (lambda: StraightThrough("logits"), ValueError, "'identity' or 'argmax', got 'logits'"),
    ],
)
def test_bad_estimators(make, error, says):
    with pytest.raises(error, match=says):
        make()
