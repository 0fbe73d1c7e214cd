"""SPSA: exactly, over all signs and all of the noise; its bias; common random numbers."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Gamma,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    constraints,
)

from reparam.estimators import SPSA, spsa
from tests.lib.statistical import check_count, check_mean

F64 = torch.float64


def T(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


def script_signs(monkeypatch, *signs):
    queue = list(signs)
    monkeypatch.setattr(spsa, "_signs", lambda like, n: queue.pop(0).expand(n, *like.shape))


def record_signs(monkeypatch):
    seen, draw = [], spsa._signs
    monkeypatch.setattr(spsa, "_signs", lambda *args: (seen.append(draw(*args)), seen[-1])[1])
    return seen


# --- exactly: over all signs and all of the noise -------------------------------------------------


def normal_expectation(monkeypatch, step, mu, sigma):
    """The expectation of the gradient of `E[z⁴]`, with every sign and every node of the noise."""
    x, w = np.polynomial.hermite_e.hermegauss(6)
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=2)), dtype=F64)
    x = torch.tensor(x).repeat(4)
    w = torch.tensor(w / w.sum()).repeat(4) / 4
    each = signs.repeat_interleave(6, 0)
    script_signs(monkeypatch, each[:, 0], each[:, 1])
    monkeypatch.setattr(Normal, "sample", lambda q, shape=(): q.loc + q.scale * x)
    mu, sigma = T(mu), T(sigma)
    q = Normal(mu.expand(24), sigma.expand(24))
    estimate = (SPSA(step)(lambda z: z**4, q) * w).sum()
    return estimate.item(), *(g.item() for g in torch.autograd.grad(estimate, (mu, sigma)))


def central_difference(step, mu, sigma):
    """What simultaneous perturbation expects, from the closed form of `E[z⁴]`; and the value."""
    mean = lambda m, s: m**4 + 6 * m**2 * s**2 + 3 * s**4  # noqa: E731
    slopes, value = np.zeros(2), 0.0
    for signs in itertools.product([1, -1], repeat=2):
        ends = [
            mean(mu + side * step * signs[0], sigma * math.exp(side * step * signs[1]))
            for side in (1, -1)
        ]
        slopes += [(ends[0] - ends[1]) / (2 * step * sign) / 4 for sign in signs]
        value += sum(ends) / 8
    return value, slopes[0], slopes[1] / sigma  # the chain rule through log σ


def test_normal_loc_and_scale_together(monkeypatch):
    for step in (0.5, 0.1):
        found = normal_expectation(monkeypatch, step, 0.8, 0.6)
        assert found == pytest.approx(central_difference(step, 0.8, 0.6), rel=1e-10)


def test_the_bias_is_quadratic_in_the_step(monkeypatch):
    """A quarter for half the step, in both gradients and in the value."""
    mu, sigma = 0.8, 0.6
    exact = (
        mu**4 + 6 * mu**2 * sigma**2 + 3 * sigma**4,
        4 * mu**3 + 12 * mu * sigma**2,
        12 * mu**2 * sigma + 12 * sigma**3,
    )
    errors = [
        np.subtract(normal_expectation(monkeypatch, step, mu, sigma), exact)
        for step in (0.04, 0.02, 0.01)
    ]
    assert errors[0] / errors[1] == pytest.approx([4.0] * 3, rel=2e-2)
    assert errors[1] / errors[2] == pytest.approx([4.0] * 3, rel=5e-3)


@pytest.mark.parametrize("step", [0.01, 3.0])
def test_exact_for_a_quadratic_function_of_the_parameters(monkeypatch, step):
    """`E[z²] = μ² + σ²` in `μ`: no bias at any step; each sample has `2(μ + σε)`."""
    loc = T([0.3, -1.0, 2.0])
    seen = []
    estimate = SPSA(step)(
        lambda z: (seen.append(z), z**2)[1], Normal(loc, 0.5 * torch.ones_like(loc)), 4
    )
    (g,) = torch.autograd.grad(estimate.sum(), loc)
    above, below = seen[0].split(4)
    torch.testing.assert_close(g, (above + below).mean(0))  # both are z ± step
    torch.testing.assert_close((above - below).abs(), torch.full_like(above, 2 * step))


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_bits_over_all_noise(monkeypatch, kind):
    """Two bits that `f` mixes: uniform noise, in pieces between the two sides' thresholds."""
    step, theta = 0.4, torch.tensor([0.3, 0.8], dtype=F64)
    f = lambda b: 3 * b[..., 0] * b[..., 1] - b[..., 1] + 0.5  # noqa: E731
    low, high = ((theta.logit() + side * step).sigmoid() for side in (-1, 1))
    nodes = torch.stack([low / 2, (low + high) / 2, (high + 1) / 2])
    lengths = torch.stack([low, high - low, 1 - high])
    entries = list(itertools.product(range(3), range(3), (1.0, -1.0), (1.0, -1.0)))
    u = torch.stack([torch.stack([nodes[i, 0], nodes[j, 1]]) for i, j, _, _ in entries])
    w = torch.stack([lengths[i, 0] * lengths[j, 1] / 4 for i, j, _, _ in entries])
    signs = torch.tensor([e[2:] for e in entries], dtype=F64)
    script_signs(monkeypatch, signs)
    monkeypatch.setattr(Bernoulli, "sample", lambda q, shape: (u < q.probs).to(F64))
    given = (theta if kind == "probs" else theta.logit()).clone().requires_grad_()
    q = Independent(Bernoulli(**{kind: given.expand(36, 2)}), 1)
    estimate = (SPSA(step)(f, q) * w).sum()
    (g,) = torch.autograd.grad(estimate, given)

    logit, expected = theta.logit(), torch.zeros(2, dtype=F64)
    for pair in itertools.product((1.0, -1.0), repeat=2):
        delta = torch.tensor(pair, dtype=F64)
        above, below = (f((logit + side * step * delta).sigmoid()) for side in (1, -1))
        expected += (above - below) / (2 * step * delta) / 4
    torch.testing.assert_close(g, expected / (theta * (1 - theta)) if kind == "probs" else expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_per_sample_by_hand(monkeypatch, dtype, device):
    """`[f(z⁺) - f(z⁻)] / (2cΔ)` through the logarithm, for a batch of 2 with events of 3."""
    options = dict(dtype=dtype, device=device)
    rate = (torch.rand(2, 3, **options) + 0.5).requires_grad_()
    signs = record_signs(monkeypatch)
    seen = []
    f = lambda z: (z.sum(-1) > 2).to(dtype) + z[..., 0] ** 2  # noqa: E731
    q = Independent(Poisson(rate), 1)
    estimate = SPSA(0.2)(lambda z: (seen.append(z), f(z))[1], q, num_samples=5)
    assert [z.shape for z in seen] == [(10, 2, 3)] and signs[0].shape == (5, 2, 3)
    assert set(signs[0].unique().tolist()) == {1.0, -1.0}
    above, below = f(seen[0]).split(5)
    torch.testing.assert_close(estimate.detach(), ((above + below) / 2).mean(0))
    (g,) = torch.autograd.grad(estimate.sum(), rate)
    by_log = ((above - below) / 0.4).unsqueeze(-1) / signs[0]
    torch.testing.assert_close(g, by_log.mean(0) / rate.detach(), rtol=1e-5, atol=1e-6)


# --- common random numbers -----------------------------------------------------------------------


def sides(monkeypatch, q, step=0.3, num_samples=1):
    signs, seen = record_signs(monkeypatch), []

    def f(z):
        seen.append(z)
        return z.double().sum(-1) if q.event_shape else z.double()

    SPSA(step)(f, q, num_samples)
    return signs, *seen[0].split(num_samples)


def test_bits_move_with_their_logits(monkeypatch, device):
    logits = torch.linspace(-3, 3, 101, device=device, requires_grad=True)
    (signs,), above, below = sides(monkeypatch, Bernoulli(logits=logits), num_samples=500)
    assert (above >= below)[signs > 0].all() and (above <= below)[signs < 0].all()
    assert (above != below).any()


def test_normal_noise_is_the_same(monkeypatch, device):
    loc = torch.linspace(-3, 3, 101, device=device, requires_grad=True)
    scale = torch.linspace(0.1, 3, 101, device=device, requires_grad=True)
    (up, wide), above, below = sides(monkeypatch, Normal(loc, scale), num_samples=50)
    eps = (above - loc - 0.3 * up) / (scale * torch.exp(0.3 * wide))
    other = (below - loc + 0.3 * up) / (scale * torch.exp(-0.3 * wide))
    torch.testing.assert_close(eps, other, rtol=1e-3, atol=1e-3)
    assert eps.std() > 0.9


def test_classes_change_only_as_far_as_their_probabilities_do(monkeypatch):
    """Almost all pairs of draws agree: the chance that they differ is of the order of the step."""
    for q in (
        Categorical(logits=torch.zeros(20_000, 4, requires_grad=True)),
        OneHotCategorical(logits=torch.zeros(20_000, 4, requires_grad=True)),
    ):
        _, above, below = sides(monkeypatch, q, step=0.05)
        apart = (above != below).double().mean()
        assert 0.001 < apart < 0.08, type(q).__name__
        assert not torch.equal(above, below)


def test_common_random_numbers_save_variance(monkeypatch):
    """`4σ²` with them, `(4μ²σ² + 2σ⁴ + O(c²)) / (2c²)` without: 41 times as much here."""
    mu, sigma, step, count = 0.8, 0.6, 0.1, 20_000

    def variance():
        loc = torch.full((count,), mu, dtype=F64, requires_grad=True)
        q = Normal(loc, torch.full_like(loc, sigma).detach())
        return torch.autograd.grad(SPSA(step)(torch.square, q).sum(), loc)[0].var().item()

    common = variance()
    monkeypatch.setattr(spsa, "draw_together", lambda both: [q.sample() for q in both])
    apart = variance()
    error = 6 * math.sqrt(2 / count)  # the relative error of a normal sample's variance, 6 times
    assert common == pytest.approx(4 * sigma**2, rel=error)
    square = lambda m: 4 * m**2 * sigma**2 + 2 * sigma**4  # noqa: E731
    known = (square(mu + step) + square(mu - step)) / (4 * step**2)
    assert known / (4 * sigma**2) > 41
    assert apart == pytest.approx(known, rel=0.15)


def test_rejected_draws_cost_no_bias():
    """A Gamma may use other numbers on its two sides; the expectation is what it should be."""
    count, step, a, rate = 100_000, 0.5, 0.8, 1.5
    concentration = torch.full((count,), a, dtype=F64, requires_grad=True)
    estimate = SPSA(step)(lambda z: z, Gamma(concentration, torch.tensor(rate, dtype=F64)))
    (g,) = torch.autograd.grad(estimate.sum(), concentration)
    truth = math.sinh(step) / step / rate  # of E z = a/rate, in the logarithm of a
    # at most the variance of two sides that are independent
    variance = 2 * a * math.cosh(step) / rate**2 / (2 * step * a) ** 2
    check_mean(g.mean(), truth, variance, count, catches=0.08)


def test_random_numbers_go_on_afterwards():
    loc = T(0.0)
    draws = []
    for _ in range(2):
        SPSA()(lambda z: (draws.append(z), z)[1], Normal(loc, 1.0))
    assert not torch.equal(draws[0], draws[1])
    torch.manual_seed(3)
    torch.randint(2, (1,))  # the sign
    torch.normal(loc.detach(), torch.ones_like(loc))
    expected = torch.rand(1)
    torch.manual_seed(3)
    SPSA()(torch.square, Normal(loc, 1.0))
    assert torch.equal(torch.rand(1), expected)  # as after one draw


# --- what it gives --------------------------------------------------------------------------------


def test_only_what_wants_a_gradient_is_moved(monkeypatch):
    signs = record_signs(monkeypatch)
    loc, scale = torch.zeros(3), torch.ones(3, requires_grad=True)
    seen = []
    f = lambda z: (seen.append(z), z**2)[1]  # noqa: E731
    SPSA()(f, Normal(loc, scale), 2)
    assert len(signs) == 1 and len(seen[-1]) == 4
    estimate = SPSA()(f, Normal(loc, scale.detach()), 2)
    assert len(signs) == 1 and len(seen[-1]) == 2 and not estimate.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(SPSA()(f, Normal(loc, scale), 2), (seen[-1] ** 2).mean(0))
    assert len(signs) == 1 and len(seen[-1]) == 2


def test_every_kind_of_parameter_is_moved_within_its_bounds():
    """Each gradient arrives, and no draw leaves the support."""
    positive = [0.05, 3.0]
    for family, parameters in (
        (Bernoulli, {"probs": [1e-6, 0.999]}),
        (Beta, {"concentration1": positive, "concentration0": positive}),
        (Categorical, {"probs": [[0.001, 0.999], [0.5, 0.5]]}),
        (Poisson, {"rate": positive}),
        (MultivariateNormal, {"loc": [0.0, 1.0], "scale_tril": [[1e-3, 0.0], [5.0, 2.0]]}),
    ):
        parameters = {name: T(value) for name, value in parameters.items()}
        q = family(**parameters)

        def f(z, q=q):
            assert q.support.check(z).all()
            return (z.double() ** 2).sum(-1) if q.event_shape else z.double() ** 2

        estimate = SPSA(2.0)(f, q, 5000)
        for g in torch.autograd.grad(estimate.sum(), tuple(parameters.values())):
            assert g.isfinite().all() and (g != 0).any()


def test_the_decoder_gets_the_plain_gradient():
    w, theta = T(2.0), T([0.2, 0.7])
    seen = []
    q = Independent(Bernoulli(theta), 1)
    SPSA()(lambda b: (seen.append(b), (w * b**2).sum(-1))[1], q, num_samples=4).backward()
    torch.testing.assert_close(w.grad, seen[0].sum(-1).mean())
    assert theta.grad is not None


def test_parameters_in_f_count_as_well():
    loc = T(2.0)
    SPSA()(lambda z: loc**3 + z, Normal(loc, 1.0)).backward()
    assert loc.grad.item() == pytest.approx(3 * 4 + 1)


def test_a_second_derivative_is_refused():
    theta = T(0.3)
    (g,) = torch.autograd.grad(SPSA()(torch.square, Poisson(theta)), theta, create_graph=True)
    with pytest.raises(NotImplementedError, match="SPSA has first derivatives only"):
        torch.autograd.grad(g, theta)


def test_under_func_and_compile():
    def loss(loc):
        return SPSA()(lambda z: 3 * z, Normal(loc, torch.ones_like(loc))).sum()

    loc = torch.tensor([2.0, -1.0], dtype=F64)
    torch.testing.assert_close(torch.func.grad(loss)(loc), torch.full_like(loc, 3.0))
    leaf = loc.clone().requires_grad_()
    torch.compile(loss, backend="aot_eager")(leaf).backward()
    torch.testing.assert_close(leaf.grad, torch.full_like(loc, 3.0))


def test_it_is_a_value():
    assert SPSA() == SPSA(0.1) and hash(SPSA()) == hash(SPSA(step=0.1)) and SPSA(0.2) != SPSA()
    with pytest.raises(AttributeError):
        SPSA().step = 1.0


# --- bad input -----------------------------------------------------------------------------------


def test_bad_input():
    for step in (0, -0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="step must be positive and finite, got"):
            SPSA(step)
    for step in (True, "0.1", torch.tensor(0.1)):
        with pytest.raises(TypeError, match="step must be a number, got"):
            SPSA(step)

    class Odd(Normal):
        class _Whim(constraints.Constraint):
            event_dim, is_discrete = 0, False

            def check(self, value):
                return value == value

        arg_constraints = {"loc": _Whim(), "scale": constraints.positive}  # noqa: RUF012

    with pytest.raises(ValueError, match="no unconstrained space for the loc of Odd"):
        SPSA()(torch.square, Odd(T(0.0), 1.0))
    SPSA()(torch.square, Odd(0.0, T(1.0)))
    mixture = MixtureSameFamily(Categorical(T([0.3, 0.7])), Normal(T([0.0, 1.0]), 1.0))
    with pytest.raises(ValueError, match="parameters of MixtureSameFamily cannot be told"):
        SPSA()(torch.square, mixture)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_probabilities_on_the_edge_are_refused(edge):
    probs = torch.tensor([0.3, edge], requires_grad=True)
    classes = torch.tensor([1.0, 0.0], requires_grad=True)
    for q in (Independent(Bernoulli(probs), 1), OneHotCategorical(classes)):
        with pytest.raises(ValueError, match="SPSA moves the logits of probabilities"):
            SPSA()(lambda b: b.sum(-1), q)
    SPSA()(torch.clone, Bernoulli(probs.detach()))


def test_signs_are_fair_and_independent():
    """Of each entry, and of each pair of entries: no two share a bit."""
    signs = spsa._signs(torch.zeros(3, 3, dtype=F64), 100_000).flatten(1)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    for one in range(9):
        check_count((signs[:, one] > 0).sum(), len(signs), 0.5)
        for other in range(one):
            check_count((signs[:, one] == signs[:, other]).sum(), len(signs), 0.5)
