"""REBAR, RELAX, LAX: unbiased by quadrature over all noise, and trained by the variance."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Gamma,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    Poisson,
    Uniform,
    constraints,
)

from reparam.estimators import (
    REBAR,
    RELAX,
    Enumeration,
    Pathwise,
    ScoreFunction,
    _relaxing,
)
from reparam.measure import measure
from tests.lib.estimators.noise_nodes import (
    F64,
    logistic_nodes,
    patch_noise,
    product,
    simplex_nodes,
)


class Surrogate(nn.Module):
    """A small network on the last `event` dimensions."""

    def __init__(self, size, event=1, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.event = event
        self.net = nn.Sequential(nn.Linear(size, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, z):
        flat = z[..., None] if self.event == 0 else z.flatten(-self.event)
        return self.net(flat).squeeze(-1)


class Cosine(nn.Module):
    """A bounded surrogate of one number, with one parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, z):
        return self.scale * torch.cos(z) + 0.2 * self.scale**2 * z


def rebar(*args):
    return REBAR(*args).double()


def relax(surrogate, *args):
    return RELAX(surrogate, *args).double()


def kinds_for(size, event=1):
    """Each estimator for discrete variables, in float64, by name."""
    return {
        "REBAR": rebar(0.5, 0.8),
        "RELAX": relax(Surrogate(size, event), 0.5, 0.8),
        "RELAX alone": relax(Surrogate(size, event), 0.5, None),
    }


EACH = ["REBAR", "RELAX", "RELAX alone"]
each = pytest.mark.parametrize("name", EACH)


# --- unbiased, exactly ----------------------------------------------------------------------------


def bit_estimates(monkeypatch, estimator, f, logit):
    """Gradient estimates of one bit at all nodes of (u, v), and the weights of the nodes."""
    # A step where the outcome changes; smooth in the noise that is drawn given the outcome.
    u, v, weights = product(logistic_nodes([-logit], 30), logistic_nodes((), 30))
    patch_noise(monkeypatch, "logistic_noise", u[None], v[None])
    logits = torch.full_like(u, logit).requires_grad_()
    value = estimator(f, Bernoulli(logits=logits))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient, weights


@pytest.mark.parametrize("logit", [-2.0, 0.4])
@pytest.mark.parametrize(
    "estimator",
    [
        rebar(),
        rebar(0.5, 0.3),
        rebar(1.0, -1.0),
        relax(Cosine()),
        relax(Cosine(), 1.0, 0.5),
        relax(Cosine(), 0.5, None),
    ],
    ids=["REBAR", "eta=0.3", "tau=1", "RELAX", "RELAX tau=1", "RELAX alone"],
)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_a_bit_is_unbiased_by_quadrature(monkeypatch, estimator, logit, mode):
    def f(b):
        return torch.exp(1.5 * b) - 0.3

    value, gradient, weights = bit_estimates(monkeypatch, estimator.train(mode), f, logit)
    theta = 1 / (1 + math.exp(-logit))
    assert (weights * value).sum().item() == pytest.approx(1 + theta * math.expm1(1.5) - 0.3)
    exact = theta * (1 - theta) * math.expm1(1.5)
    assert (weights * gradient).sum().item() == pytest.approx(exact, abs=1e-9)


def test_a_function_without_a_derivative_needs_a_surrogate_alone(monkeypatch):
    """`eta=None`: the step `1[b > 1/2]`, which no relaxation follows, exactly unbiased."""
    estimator = relax(Cosine(), 0.5, None)
    _, gradient, weights = bit_estimates(monkeypatch, estimator, lambda b: (b > 0.5).to(b), 0.4)
    theta = 1 / (1 + math.exp(-0.4))
    assert (weights * gradient).sum().item() == pytest.approx(theta * (1 - theta), abs=1e-9)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_two_classes_are_unbiased_by_quadrature(monkeypatch, eta):
    """A softmax knows differences alone: noise `(L, 0)`, `L` logistic, stands for two Gumbels."""
    x = torch.tensor([0.9, -0.2], dtype=F64)

    def f(b):
        return torch.exp(b[..., 0]) + b[..., 1] ** 2 * b[..., 0] - 2 * b[..., 1]

    u, v, weights = product(logistic_nodes([-1.1], 30), logistic_nodes((), 30))
    noise = [torch.stack([a, 0 * a], -1)[None] for a in (u, v)]
    patch_noise(monkeypatch, "gumbel_noise", *noise)
    logits = x.expand(len(u), 2).clone().requires_grad_()
    value = rebar(0.5, eta)(f, OneHotCategorical(logits=logits))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    check_classes(f, x, weights, value, gradient)


def check_classes(f, x, weights, value, gradient, within=1e-9):
    x = x.clone().requires_grad_()
    exact = Enumeration()(f, OneHotCategorical(logits=x))
    (slope,) = torch.autograd.grad(exact, x)
    torch.testing.assert_close((weights * value.detach()).sum(), exact.detach())
    torch.testing.assert_close((weights[:, None] * gradient).sum(0), slope, rtol=0, atol=within)


def test_three_classes_are_unbiased_by_quadrature(monkeypatch):
    """Outcome by outcome: noise that leads there, from three arrival times, and noise given it.

    Ratios of three exponential times are uniform on the simplex; both sets of them are integrated
    there. With 14 nodes a side the rule is off by 5e-7, with 22 by 2e-8.
    """
    x = torch.tensor([0.5, -0.4, 0.1], dtype=F64).log_softmax(0)
    times, weights = simplex_nodes(14)
    index = torch.cartesian_prod(torch.arange(3), *[torch.arange(len(times))] * 2)
    b = torch.eye(3, dtype=F64)[index[:, 0]]
    leading, anew = -times[index[:, 1]].log(), -times[index[:, 2]].log()
    patch_noise(monkeypatch, "gumbel_noise", leading)
    z = _relaxing._gumbel_given(b, x)
    patch_noise(monkeypatch, "gumbel_noise", (z - x)[None], anew[None])
    weight = x.exp()[index[:, 0]] * weights[index[:, 1]] * weights[index[:, 2]]

    def f(b):
        return (b[..., 0] - 2 * b[..., 1]) ** 2 + 3 * b[..., 2]

    logits = x.expand(len(b), 3).clone().requires_grad_()
    value = rebar(1.0, 0.7).eval()(f, OneHotCategorical(logits=logits))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    check_classes(f, x, weight, value, gradient, within=2e-6)


def test_several_variables_are_unbiased(monkeypatch):
    """Two bits that `f` mixes, by product quadrature over their four numbers."""
    x = torch.tensor([0.5, -1.0], dtype=F64)
    rules = [logistic_rule(-a) for a in x.tolist()]
    conditional = logistic_rule(None)
    grids = torch.meshgrid(
        *(torch.arange(len(r[0])) for r in (*rules, conditional, conditional)), indexing="ij"
    )
    i, j, k, m = (g.flatten() for g in grids)
    u = torch.stack([rules[0][0][i], rules[1][0][j]], -1)
    v = torch.stack([conditional[0][k], conditional[0][m]], -1)
    weights = rules[0][1][i] * rules[1][1][j] * conditional[1][k] * conditional[1][m]
    patch_noise(monkeypatch, "logistic_noise", u[None], v[None])

    def f(b):
        return (b[..., 0] + 2 * b[..., 1] - 0.7) ** 2

    logits = x.expand(len(u), 2).clone().requires_grad_()
    value = rebar(1.0, 0.6).eval()(f, Independent(Bernoulli(logits=logits), 1))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    x.requires_grad_()
    exact = Enumeration()(f, Independent(Bernoulli(logits=x), 1))
    (slope,) = torch.autograd.grad(exact, x)
    torch.testing.assert_close((weights[:, None] * gradient).sum(0), slope, rtol=0, atol=1e-7)


def logistic_rule(step, count=10):
    """A rule in u, the uniform number behind logistic noise, split where the outcome changes."""
    import numpy as np

    x, w = (torch.tensor(a, dtype=F64) for a in np.polynomial.legendre.leggauss(count))
    x, w = (x + 1) / 2, w / 2
    if step is None:
        return torch.logit(x), w
    split = 1 / (1 + math.exp(-step))
    nodes = torch.cat([split * x, split + (1 - split) * x])
    return torch.logit(nodes), torch.cat([split * w, (1 - split) * w])


@pytest.mark.parametrize("parameter", ["loc", "scale"])
def test_lax_is_unbiased_by_quadrature(monkeypatch, parameter):
    """A normal variable under an `f` with a step, which the pathwise gradient would miss."""
    import numpy as np

    def f(z):
        return (z > 0.3).to(z) + 0.1 * z**2

    mu, sigma = 0.5, 1.3
    x, w = np.polynomial.legendre.leggauss(60)
    split, nodes, weights = (0.3 - mu) / sigma, [], []
    for low, high in ((-12, split), (split, 12)):
        nodes.append((high + low) / 2 + (high - low) / 2 * torch.tensor(x))
        weights.append((high - low) / 2 * torch.tensor(w))
    eps = torch.cat(nodes)
    weights = torch.cat(weights) * torch.exp(-(eps**2) / 2) / math.sqrt(2 * math.pi)
    monkeypatch.setattr(Normal, "rsample", lambda self, shape=(): self.loc + self.scale * eps)
    parameters = {
        "loc": torch.full_like(eps, mu).requires_grad_(),
        "scale": torch.full_like(eps, sigma).requires_grad_(),
    }
    value = relax(Cosine())(f, Normal(**parameters))
    (gradient,) = torch.autograd.grad(value.sum(), parameters[parameter])
    density = math.exp(-(split**2) / 2) / math.sqrt(2 * math.pi) / sigma
    exact = {"loc": density + 0.2 * mu, "scale": -density * -split + 0.2 * sigma}
    assert (weights * gradient).sum().item() == pytest.approx(exact[parameter], abs=1e-9)


# --- per sample, and the coupling -----------------------------------------------------------------


@pytest.mark.parametrize("make", ["bits", "classes"])
@each
def test_formula_per_sample(monkeypatch, name, make, device):
    """Against the formula, written with autograd on one leaf for each sample and shared noise."""
    bits = make == "bits"
    x = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.5, 1.0]], dtype=F64, device=device)
    estimator = kinds_for(3)[name].to(device)
    w = torch.tensor([1.0, -2.0, 0.5], dtype=F64, device=device)
    seen = []

    def f(b):
        seen.append(b.detach())
        return ((b * w).sum(-1) - 0.4) ** 3

    noise = torch.rand(2, 5, 2, 3, dtype=F64) * 6 - 3
    patch_noise(monkeypatch, "logistic_noise" if bits else "gumbel_noise", *noise)
    x.requires_grad_()
    q = Independent(Bernoulli(logits=x), 1) if bits else OneHotCategorical(logits=x)
    estimate = estimator(f, q, num_samples=5)
    (got,) = torch.autograd.grad(estimate.sum(), x)
    noise = noise.to(device)
    logits = q.base_dist.logits if bits else q.logits  # torch normalizes those of classes

    def soften(z):
        return (z / 0.5).sigmoid() if bits else (z / 0.5).softmax(-1)

    def control(z):
        c = 0.0 if estimator.eta is None else 0.8 * ((soften(z) * w).sum(-1) - 0.4) ** 3
        return c + (estimator.surrogate(z) if name != "REBAR" else 0)

    total, mean = torch.zeros_like(x), 0.0
    for k in range(5):
        leaf = logits.detach().requires_grad_()
        z = leaf + noise[0, k]
        if bits:
            b = (z > 0).to(F64)
            theta, v = leaf.sigmoid(), noise[1, k].sigmoid()
            given = torch.where(b == 1, 1 - theta + v * theta, (1 - v) * (1 - theta)).logit()
            given = given + leaf
            log_q = (b * theta.log() + (1 - b) * (1 - theta).log()).sum()
        else:
            b = nn.functional.one_hot(z.argmax(-1), 3).to(F64)
            e = torch.exp(-noise[1, k])
            first = (b * e).sum(-1, True) / leaf.exp().sum(-1, True)
            given = -torch.log(first + (1 - b) * e / leaf.exp())
            log_q = (b * leaf.log_softmax(-1)).sum()
        (score,) = torch.autograd.grad(log_q, leaf, retain_graph=True)
        fb = ((b * w).sum(-1) - 0.4) ** 3
        weight = (fb - control(given)).detach()[:, None]
        path = torch.autograd.grad((control(z) - control(given)).sum(), leaf)[0]
        total = total + weight * score + path
        mean = mean + fb / 5
    expected = total / 5
    if not bits:
        expected = expected - x.detach().softmax(-1) * expected.sum(-1, True)
    torch.testing.assert_close(estimate.detach(), mean)
    torch.testing.assert_close(got, expected)
    assert [len(z) for z in seen] == ([5] if name == "RELAX alone" else [5, 10])


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_relaxations_harden_to_the_sample(temperature, device):
    """H(z) and H(z̃) are b for every draw, which no test of means can see."""
    x = torch.tensor([0.3, -9.0, 9.0], device=device, requires_grad=True)
    for q in (Independent(Bernoulli(logits=x), 1), OneHotCategorical(logits=x)):
        seen = []

        def f(b):
            seen.append(b.detach())  # noqa: B023
            return b[..., 0]

        REBAR(temperature)(f, q, num_samples=50_000)
        b, (y, given) = seen[0], seen[1].chunk(2)
        assert not torch.equal(y, given)
        for soft in (y, given):
            if isinstance(q, OneHotCategorical):
                assert torch.equal(soft.argmax(-1), b.argmax(-1))
            else:
                assert torch.equal((soft > 0.5).to(b), b)


def test_eta_zero_is_the_score_function():
    """Sample by sample, on the sample that it drew."""
    x = torch.tensor([0.3, -1.0], dtype=F64, requires_grad=True)
    seen = []

    def f(b):
        seen.append(b.detach())
        return b.sum(-1) ** 2 + 3

    (got,) = torch.autograd.grad(rebar(0.5, 0.0)(f, Independent(Bernoulli(logits=x), 1), 7), x)
    b = seen[0]
    expected = (((b.sum(-1) ** 2 + 3)[:, None]) * (b - x.detach().sigmoid())).mean(0)
    torch.testing.assert_close(got, expected)


class LogScaled(Normal):
    """A Gaussian whose density and samples both go through the exponential that makes its scale."""

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012

    def __init__(self, loc, log_scale, validate_args=None):
        self.log_scale = log_scale.expand_as(loc)
        super().__init__(loc, self.log_scale.exp(), validate_args=False)


def test_lax_with_f_itself_for_a_surrogate_is_pathwise(device):
    """Then `f(z) - c(z)` is 0 and the reparameterized derivative is left, exactly."""

    class Itself(nn.Module):
        def forward(self, z):
            return f(z)

    def f(z):
        return (z.sum(-1) - 0.3) ** 3

    mu = torch.tensor([[0.5, -1.0]] * 3, dtype=F64, device=device, requires_grad=True)
    sigma = torch.tensor([0.7, 2.0], dtype=F64, device=device, requires_grad=True)
    root = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=F64, device=device, requires_grad=True)
    for make, parameters in (
        (lambda: Independent(Normal(mu, sigma), 1), (mu, sigma)),
        (lambda: Independent(Gamma(mu.exp(), sigma), 1), (mu, sigma)),
        (lambda: MultivariateNormal(mu, scale_tril=root), (mu, root)),
        (lambda: Independent(LogScaled(mu, sigma), 1), (mu, sigma)),
        (lambda: Independent(Normal(mu.detach(), sigma), 1), (sigma,)),
    ):
        results = []
        for estimator in (Pathwise(), RELAX(Itself())):
            torch.manual_seed(1)
            estimate = estimator(f, make(), num_samples=4)
            results.append((estimate.detach(), *torch.autograd.grad(estimate.sum(), parameters)))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


def test_lax_without_a_gradient():
    estimator = RELAX(Surrogate(2))
    q = Independent(Normal(torch.zeros(3, 2), 1.0), 1)
    value = estimator(lambda z: z.sum(-1) * 0 + torch.arange(3.0), q, 5)
    assert torch.equal(value, torch.arange(3.0))
    assert not value.requires_grad


# --- own parameters -------------------------------------------------------------------------------


def variance_by_quadrature(monkeypatch, estimator, logit, f):
    _, gradient, weights = bit_estimates(monkeypatch, estimator.eval(), f, logit)
    return ((weights * gradient**2).sum() - (weights * gradient).sum() ** 2).item()


@pytest.mark.parametrize("name", ["REBAR", "RELAX", "RELAX alone"])
def test_own_parameters_get_the_derivative_of_the_variance(monkeypatch, name):
    """Exactly: against differences of the variance, both by quadrature over all of the noise."""
    estimator = {
        "REBAR": rebar(0.5, 0.6),
        "RELAX": relax(Cosine(), 0.5, 0.6),
        "RELAX alone": relax(Cosine(), 0.5, None),
    }[name]
    logit = 0.4

    def f(b):
        return torch.exp(1.5 * b) - 0.3

    u, v, weights = product(logistic_nodes([-logit], 24), logistic_nodes((), 24))
    # One call for each node would be slow; the nodes are entries of the batch, whose squared
    # gradients are summed. Weights go in by `f` and the control times the weight's root.
    root = weights.sqrt()
    patch_noise(monkeypatch, "logistic_noise", u[None], v[None])
    logits = torch.full_like(u, logit).requires_grad_()
    if name != "REBAR":
        surrogate = estimator.surrogate
        monkeypatch.setattr(
            type(surrogate),
            "forward",
            lambda self, z: root * (self.scale * torch.cos(z) + 0.2 * self.scale**2 * z),
        )
    estimator(lambda b: root * f(b), Bernoulli(logits=logits)).sum().backward()
    monkeypatch.undo()
    for parameter in estimator.parameters():
        if parameter.grad is None:
            assert name == "RELAX alone" and parameter is estimator.log_temperature
            continue
        sides = []
        for step in (1e-4, -2e-4):
            parameter.data += step
            sides.append(variance_by_quadrature(monkeypatch, estimator, logit, f))
        parameter.data += 1e-4
        assert parameter.grad.item() == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, -1.0, 17.0, 0.01])
@each
def test_own_gradients_do_not_depend_on_the_loss(name, scale):
    """Nor does the decoder's gradient depend on them: it is that of `f(b)` alone."""
    results = []
    for factor in (1.0, scale):
        estimator = kinds_for(6)[name]
        torch.manual_seed(2)
        decoder = nn.Linear(6, 1).double()
        x = torch.randn(4, 6, dtype=F64, requires_grad=True)
        seen = []

        def f(b):
            seen.append(b.detach())  # noqa: B023
            return decoder(b).squeeze(-1) ** 2  # noqa: B023

        value = estimator(f, Independent(Bernoulli(logits=x), 1), 3)
        (factor * value.sum()).backward()
        own = [p.grad for p in estimator.parameters() if p.grad is not None]
        assert len(own) == {"REBAR": 2, "RELAX": 6, "RELAX alone": 4}[name]
        assert all(g.abs().sum() > 0 for g in own[:-1])  # the surrogate's last bias cancels
        results.append((own, decoder.weight.grad / factor, x.grad / factor))
        plain = decoder(seen[0]).square().mean(0).sum()
        (expected,) = torch.autograd.grad(plain, decoder.weight)
        torch.testing.assert_close(decoder.weight.grad, factor * expected)
    for a, b in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("n", [1, 4])
def test_several_samples_average_squares_of_single_ones(n):
    """`d/dη` of the mean over samples of the squared gradient, summed over entries and batch."""
    estimator, again = rebar(0.5, 0.6), rebar(0.5, 0.6)
    x = torch.randn(3, 2, dtype=F64, requires_grad=True)

    def f(b):
        return (b.sum(-1) - 0.4) ** 2

    def per_sample(step):
        """On the same noise, sample by sample: each is an entry of a larger batch."""
        again.eta.data = estimator.eta.data + step
        torch.manual_seed(7)
        copies = x.detach().expand(n, 3, 2).clone().requires_grad_()
        again(f, Independent(Bernoulli(logits=copies), 1)).sum().backward()
        return copies.grad

    torch.manual_seed(7)
    estimator(f, Independent(Bernoulli(logits=x), 1), num_samples=n).sum().backward()
    high, low = (per_sample(step).square().sum().item() / n for step in (1e-5, -1e-5))
    assert estimator.eta.grad.item() == pytest.approx((high - low) / 2e-5, rel=1e-6)
    torch.testing.assert_close(x.grad, per_sample(0.0).mean(0))


@pytest.mark.parametrize("name", ["REBAR", "RELAX"])
def test_training_lowers_the_variance(monkeypatch, name):
    """By quadrature before and after 200 steps of Adam on one bit."""
    torch.manual_seed(0)
    logit = 0.4

    def f(b):
        return (b - 0.45) ** 2

    estimator = rebar(0.2, 2.0) if name == "REBAR" else relax(Surrogate(1, 0), 0.2, 2.0)
    before = variance_by_quadrature(monkeypatch, estimator, logit, f)
    monkeypatch.undo()
    optimizer = torch.optim.Adam(estimator.train().parameters(), lr=0.03)
    x = torch.full((200,), logit, dtype=F64, requires_grad=True)
    for _ in range(200):
        optimizer.zero_grad()
        value = estimator(f, Bernoulli(logits=x))
        (-value.mean()).backward()  # an objective that is maximized
        optimizer.step()
    after = variance_by_quadrature(monkeypatch, estimator, logit, f)
    assert after < before / 5
    assert estimator.temperature.item() == pytest.approx(math.exp(estimator.log_temperature.item()))


def test_lax_trains_its_surrogate():
    """It approaches the optimal control: the variance falls below the score function's."""
    torch.manual_seed(0)
    estimator = RELAX(nn.Sequential(nn.Unflatten(-1, (-1, 1)), nn.Linear(1, 16), nn.Tanh(),
                                    nn.Linear(16, 1), nn.Flatten(-2)))  # fmt: skip

    def f(z):
        return (z - 0.45) ** 2

    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02)
    mu = torch.full((200,), 0.5, requires_grad=True)
    for _ in range(200):
        optimizer.zero_grad()
        estimator(f, Normal(mu, 1.0)).sum().backward()
        optimizer.step()
    variances = [
        torch.autograd.grad(e(f, Normal(mu, 1.0), 1).sum(), mu)[0].var().item()
        for e in (estimator.eval(), ScoreFunction())
    ]
    assert variances[0] < variances[1] / 2


@each
def test_eval_mode_freezes_and_keeps_no_graph(name):
    estimator = kinds_for(2)[name].eval()
    x = torch.randn(3, 2, dtype=F64, requires_grad=True)
    q = Independent(Bernoulli(logits=x), 1)
    estimator(lambda b: b.sum(-1) ** 2, q).sum().backward()
    assert all(p.grad is None for p in estimator.parameters())
    estimator.train()
    for p in estimator.parameters():
        p.requires_grad_(False)
    value = estimator(lambda b: b.sum(-1) ** 2, q)
    assert torch.autograd.grad(value.sum(), x)[0].abs().sum() > 0
    kept = kinds_for(2)[name]
    with torch.no_grad():
        assert not kept(lambda b: b.sum(-1) ** 2, q).requires_grad
    fixed = Independent(Bernoulli(logits=x.detach()), 1)
    assert not kept(lambda b: b.sum(-1) ** 2, fixed).requires_grad


def test_measure_leaves_it_untrained():
    """And sees three evaluations of `f`, and less variance than the score function's."""
    parameters = {"logits": torch.full((10,), 0.3)}

    def f(b):
        return ((b - 0.45) ** 2).sum(-1)

    estimator = REBAR()
    ours, theirs = (
        measure(e, f, make_bits, parameters, replicates=2000) for e in (estimator, ScoreFunction())
    )
    assert ours.evaluations == 3
    assert ours.variance["logits"].sum() < theirs.variance["logits"].sum() / 2
    assert estimator.eta.grad is None
    assert estimator.training


# --- shapes, types, other -------------------------------------------------------------------------


def make_bits(logits):
    return Independent(Bernoulli(logits=logits), 1)


def make_one_hots(x):
    return Independent(OneHotCategorical(logits=x.unflatten(-1, (2, 3))), 1)


@each
@pytest.mark.parametrize("make", [make_bits, make_one_hots])
def test_shapes_and_batch(name, make, device):
    estimator = kinds_for(6, 1 if make is make_bits else 2)[name].float().to(device)
    x = torch.randn(5, 6, device=device).requires_grad_()
    value = estimator(lambda b: b.flatten(2).sum(-1) ** 2, make(x), 3)
    assert value.shape == (5,)
    (g,) = torch.autograd.grad(value[2], x)
    assert (g[[0, 1, 3, 4]] == 0).all()
    assert g[2].abs().sum() > 0


@each
def test_probs_as_parameters(name):
    """The chain rule leads from logits to whatever the distribution was made from."""
    theta = torch.tensor([0.2, 0.7], dtype=F64, requires_grad=True)
    grads = []
    for make in (
        lambda: Independent(Bernoulli(probs=theta), 1),
        lambda: Independent(Bernoulli(logits=theta.logit()), 1),
    ):
        torch.manual_seed(3)
        value = kinds_for(2)[name](lambda b: (b.sum(-1) - 0.4) ** 2, make(), 5)
        grads += torch.autograd.grad(value, theta)
    torch.testing.assert_close(*grads)


@each
def test_second_derivatives_raise(name):
    x = torch.tensor([0.3, -0.5], dtype=F64, requires_grad=True)
    value = kinds_for(2)[name](lambda b: b.sum(-1) ** 2, make_bits(x))
    (g,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"{name.split()[0]} has first derivatives only"):
        torch.autograd.grad(g.sum(), x)


def test_second_derivatives_of_lax_raise():
    mu = torch.tensor(0.3, dtype=F64, requires_grad=True)
    value = relax(Cosine())(torch.square, Normal(mu, 1.0))
    (g,) = torch.autograd.grad(value, mu, create_graph=True)
    with pytest.raises(NotImplementedError, match="RELAX has first derivatives only"):
        torch.autograd.grad(g, mu)


@each
def test_f_may_use_the_parameters_itself(name):
    x = torch.tensor([0.3, -0.5], dtype=F64, requires_grad=True)
    results = []
    for direct in (x, x.detach()):
        torch.manual_seed(1)
        value = kinds_for(2)[name](
            lambda b, direct=direct: b.sum(-1) * direct.square().sum(), make_bits(x), 6
        )
        results.append((value.item(), torch.autograd.grad(value, x)[0]))
    assert results[0][0] == results[1][0]
    mean = results[0][0] / x.detach().square().sum()  # of b.sum(-1)
    torch.testing.assert_close(results[0][1] - results[1][1], 2 * x.detach() * mean)


@each
def test_they_nest(name):
    """An enumeration inside, over a second bit."""
    x = torch.tensor(0.3, dtype=F64, requires_grad=True)

    def inner(a):
        second = Bernoulli(probs=torch.full_like(a, 0.25))
        return Enumeration()(lambda b: (a - 2 * b) ** 2, second)

    grads = []
    for f in (inner, lambda a: 0.75 * a**2 + 0.25 * (a - 2) ** 2):
        torch.manual_seed(1)
        value = kinds_for(1, 0)[name](f, Bernoulli(logits=x), 3)
        grads += torch.autograd.grad(value, x)
    torch.testing.assert_close(*grads)


@each
def test_sixteen_bits(name):
    estimator = kinds_for(3)[name].to(torch.bfloat16)
    x = torch.zeros(4, 3, dtype=torch.bfloat16, requires_grad=True)
    value = estimator(lambda b: b.sum(-1) ** 2, make_bits(x), 4)
    value.sum().backward()
    assert value.dtype == x.grad.dtype == torch.bfloat16
    assert x.grad.isfinite().all()


def test_straight_through_one_hots_are_discrete_to_relax():
    x = torch.zeros(3, dtype=F64, requires_grad=True)
    seen = []
    q = OneHotCategoricalStraightThrough(logits=x)
    relax(Surrogate(3))(lambda b: (seen.append(b), b[..., 0] ** 2)[1], q)
    assert len(seen) == 2  # b, and both relaxations: not LAX


def test_state_is_saved():
    estimator = RELAX(Surrogate(2), 0.3, 0.7)
    default = RELAX(Surrogate(2))
    assert set(default.state_dict()) == set(estimator.state_dict())
    for fresh in (default, REBAR()):
        assert fresh.temperature.item() == pytest.approx(0.5)
        assert fresh.eta.item() == 1
    assert {"eta", "log_temperature"} <= set(estimator.state_dict())
    assert estimator.temperature.item() == pytest.approx(0.3)
    assert estimator.eta.item() == pytest.approx(0.7)


class Constant(nn.Module):
    def forward(self, z):
        return torch.zeros(z.shape[:-1])


class WrongShape(nn.Module):
    def forward(self, z):
        return z.sum()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: REBAR()(lambda b: (b > 0).to(b).sum(-1), make_bits(x)), ValueError, "eta=None"),
        (
            lambda x: RELAX(Surrogate(2))(lambda b: b.detach().sum(-1), make_bits(x)),
            ValueError,
            "RELAX",
        ),
        (lambda x: REBAR()(torch.square, make_bits(x)), ValueError, "one value for each sample"),
        (
            lambda x: REBAR()(lambda b: b.sum(-1) * math.nan, make_bits(x)),
            ValueError,
            "NaN for 1 of 1",
        ),
        (lambda x: REBAR()(torch.square, Normal(x, 1.0)), ValueError, "REBAR needs .*Pathwise"),
        (
            lambda x: REBAR()(torch.square, Categorical(logits=x)),
            ValueError,
            "REBAR needs .* got Categorical: use OneHotCategorical",
        ),
        (
            lambda x: RELAX(Surrogate(2))(torch.square, Poisson(x.exp())),
            ValueError,
            "RELAX needs .* got Poisson: .* ScoreFunction",
        ),
        (
            lambda x: RELAX(Surrogate(2))(torch.square, Uniform(0.0, x.exp())),
            ValueError,
            "support moves .* that of Uniform does: use Pathwise",
        ),
        (
            lambda x: RELAX(Constant())(lambda b: b.sum(-1), make_bits(x)),
            ValueError,
            "value of surrogate does not depend",
        ),
        (
            lambda x: RELAX(WrongShape())(lambda b: b.sum(-1), make_bits(x)),
            ValueError,
            "surrogate must return one value for each sample",
        ),
        (lambda x: REBAR()(3, make_bits(x)), TypeError, "f must be a function"),
        (lambda x: RELAX(Surrogate(2))(3, make_bits(x)), TypeError, "f must be a function"),
        (lambda x: RELAX(Surrogate(2))(3, Normal(x, 1.0)), TypeError, "f must be a function"),
        (
            lambda x: RELAX(Surrogate(2))(torch.square, Normal(x, 1.0), 0),
            ValueError,
            "num_samples must be at least 1",
        ),
        (lambda x: RELAX(Surrogate(2))(torch.square, 3), TypeError, "distribution must be a"),
        (lambda x: REBAR(0), ValueError, "positive and finite, got 0"),
        (lambda x: REBAR(torch.tensor(1.0)), TypeError, "got a tensor"),
        (lambda x: REBAR(0.5, None), TypeError, "use RELAX for a surrogate alone"),
        (lambda x: REBAR(0.5, math.nan), ValueError, "eta must be a finite number, got nan"),
        (lambda x: REBAR(0.5, "1"), ValueError, "eta must be a finite number"),
        (lambda x: RELAX(torch.square), TypeError, "surrogate must be a torch.nn.Module, got buil"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call(torch.tensor([0.3, -0.5], requires_grad=True))
