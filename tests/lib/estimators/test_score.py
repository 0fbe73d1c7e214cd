"""ScoreFunction's baselines: exactly over all samples, their variances, their state, bad input."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Categorical,
    ComposeTransform,
    CumulativeDistributionTransform,
    Distribution,
    Exponential,
    ExpTransform,
    Gumbel,
    Independent,
    Kumaraswamy,
    LogNormal,
    Normal,
    OneHotCategorical,
    PowerTransform,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
    Weibull,
    constraints,
)

from reparam.estimators import (
    NVIL,
    Constant,
    Enumeration,
    Learned,
    LeaveOneOut,
    MovingAverage,
    Pathwise,
    ScoreFunction,
    optimal_constant,
)
from reparam.estimators.enumeration import support_points
from reparam.measure import measure

F64 = torch.float64


def T(values):
    return torch.tensor(values, dtype=F64, requires_grad=True)


def linear(features=2, dtype=F64):
    return nn.Linear(features, 1, dtype=dtype)


# --- all samples ---------------------------------------------------------------------------------


def over_samples(monkeypatch, baseline, f, q, num_samples):
    """The estimate for every tuple of samples of `q`, which has no batch, and its probability."""
    points = support_points(q, 2**10)
    tuples = torch.tensor(list(itertools.product(range(len(points)), repeat=num_samples)))
    z = points[tuples.T]  # [num_samples, tuples, *event]
    many = q.expand((len(tuples),))
    monkeypatch.setattr(type(many), "sample", lambda self, shape: z)
    estimate = ScoreFunction(baseline)(f, many, num_samples)
    monkeypatch.undo()
    return estimate, q.log_prob(z).exp().prod(0).detach()


def moments_over_samples(monkeypatch, baseline, f, make, parameters, num_samples=1):
    """Value, and mean and variance of the gradient, over every tuple of samples."""
    estimate, weights = over_samples(monkeypatch, baseline, f, make(parameters), num_samples)
    slopes = torch.stack(
        [torch.autograd.grad(e, parameters, retain_graph=True)[0] for e in estimate]
    )
    weights = weights.reshape(-1, *(1,) * parameters.ndim)
    mean = (weights * slopes).sum(0)
    variance = (weights * (slopes - mean) ** 2).sum(0)
    return (weights.flatten() * estimate).sum().detach(), mean, variance


def one_bit(logit):
    return Bernoulli(logits=logit)


def bits(logits):
    return Independent(Bernoulli(logits=logits), 1)


def classes(logits):
    return OneHotCategorical(logits=logits)


WEIGHTS = torch.tensor([2.0, -1.0, 5.0], dtype=F64)


def mixed(z):
    """Neither linear nor symmetric."""
    return ((z * WEIGHTS[: z.shape[-1]]).sum(-1) / 3).exp() + z[..., 0]


def fixed_baselines():
    torch.manual_seed(4)
    average = MovingAverage()
    average(torch.full((3,), 4.0))
    x = torch.randn(2, dtype=F64)
    learned, nvil = Learned(linear()), NVIL(linear())
    nvil.mean.update(torch.tensor(3.0))
    return {
        "constant": Constant(-2.5),
        "average": average.eval(),
        "learned": learned.eval().at(x),
        "nvil": nvil.eval().at(x),
        "leave one out": LeaveOneOut(),
        "a function": lambda values: torch.full((), 7.0),
    }


@pytest.mark.parametrize("name", fixed_baselines())
@pytest.mark.parametrize(
    ("make", "logits", "num_samples"),
    [(bits, [0.4, -1.0], 2), (classes, [0.3, -0.2, 0.9], 3)],
    ids=["bits", "classes"],
)
def test_no_baseline_makes_a_bias(monkeypatch, name, make, logits, num_samples):
    """Value and gradient over every tuple of samples are those of the enumeration."""
    logits = T(logits)
    value, gradient, _ = moments_over_samples(
        monkeypatch, fixed_baselines()[name], mixed, make, logits, num_samples
    )
    truth = Enumeration()(mixed, make(logits))
    torch.testing.assert_close(value, truth, rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(truth, logits)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [None, *(n for n in fixed_baselines() if n != "nvil")])
def test_second_derivatives_are_right(monkeypatch, name):
    """A baseline is a control variate of the second derivative as well."""
    logits = T([0.4, -1.0])
    baseline = fixed_baselines()[name] if name else None
    estimate, weights = over_samples(monkeypatch, baseline, mixed, bits(logits), 2)
    got = []
    for e in ((weights * estimate).sum(), Enumeration()(mixed, bits(logits))):
        (slope,) = torch.autograd.grad(e, logits, create_graph=True)
        got.append(
            torch.stack([torch.autograd.grad(s, logits, retain_graph=True)[0] for s in slope])
        )
    torch.testing.assert_close(got[0], got[1], rtol=0, atol=1e-12)


def test_a_baseline_quiets_the_second_derivative_too():
    """For one bit at logit 0, where `s² + s' = 0` and `E[(f - b)² …]` falls with `b = f`."""
    q = Bernoulli(logits=torch.zeros(4000, dtype=F64, requires_grad=True))
    spread = []
    for baseline in (None, Constant(100.0)):
        torch.manual_seed(0)
        x = torch.full((4000,), 0.5, dtype=F64, requires_grad=True)
        q = Bernoulli(logits=x)
        estimate = ScoreFunction(baseline)(lambda b: b + 100, q)
        (slope,) = torch.autograd.grad(estimate.sum(), x, create_graph=True)
        spread.append(torch.autograd.grad(slope.sum(), x)[0].var().item())
    assert spread[1] < spread[0] / 1000


# --- variances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [2, 3, 5])
@pytest.mark.parametrize("theta", [0.5, 0.9])
def test_variance_of_leave_one_out(monkeypatch, num_samples, theta):
    """For one bit the estimate is `Δ` times the sample variance of the bits.

    So its variance is `Δ² (μ4 - v² (n - 3) / (n - 1)) / n`, with `v = θ (1 - θ)` and
    `μ4 = v (1 - 3v)`.
    """
    v, delta = theta * (1 - theta), 3.0
    _, mean, variance = moments_over_samples(
        monkeypatch,
        LeaveOneOut(),
        lambda b: delta * b + 20,
        one_bit,
        T(math.log(theta / (1 - theta))),
        num_samples,
    )
    n = num_samples
    closed = delta**2 * (v * (1 - 3 * v) - v**2 * (n - 3) / (n - 1)) / n
    assert mean.item() == pytest.approx(delta * v)
    assert variance.item() == pytest.approx(closed)


@pytest.mark.parametrize(
    ("baseline", "by_logit"), [(None, 0.0009), (Constant(0.9), 0.0576), (Constant(0.1), 0.0)]
)
def test_the_mean_of_f_is_no_good_baseline(monkeypatch, baseline, by_logit):
    """`θ = 0.9`, `f = b`, for the logit; by θ the variances are `1 / (θ (1 - θ))²` times those."""
    logit, theta = T(math.log(9.0)), T(0.9)
    _, mean, variance = moments_over_samples(monkeypatch, baseline, lambda b: b, one_bit, logit)
    assert mean.item() == pytest.approx(0.09)
    assert variance.item() == pytest.approx(by_logit, abs=1e-15)
    _, mean, variance = moments_over_samples(monkeypatch, baseline, lambda b: b, Bernoulli, theta)
    assert mean.item() == pytest.approx(1)
    assert variance.item() == pytest.approx(by_logit / 0.09**2, abs=1e-13)


@pytest.mark.parametrize(
    "make",
    [
        bits,
        classes,
        lambda p: Independent(Bernoulli(p.sigmoid()), 1),
        lambda p: OneHotCategorical(p.softmax(-1)),
    ],
)
def test_optimal_constant_is_optimal(monkeypatch, make):
    """No other constant has less summed variance over the parameters the law is made from."""
    p = T([0.4, -1.0, 0.2])
    given = "probs" if make not in (bits, classes) else "logits"
    seed = make(p.detach())
    base = seed.base_dist if isinstance(seed, Independent) else seed
    parameters = getattr(base, given).clone().requires_grad_()
    if make in (bits, classes):
        build = make
    elif isinstance(seed, Independent):
        build = lambda x: Independent(Bernoulli(x), 1)  # noqa: E731
    else:
        build = OneHotCategorical
    best = optimal_constant(mixed, build(parameters))
    assert best.shape == () and not best.requires_grad

    def variance(b):
        return moments_over_samples(monkeypatch, Constant(b), mixed, build, parameters)[2].sum()

    at = variance(best)
    steps = torch.tensor([-1.0, -0.1, 0.1, 1.0], dtype=F64)
    around = torch.stack([variance(best + step) for step in steps]) - at
    # A parabola with its vertex at the optimum: the excess is a multiple of the squared step.
    torch.testing.assert_close(around / steps**2, around[:1].expand(4), rtol=1e-6, atol=1e-9)
    assert (around > 0).all()


def test_optimal_constant_makes_a_two_point_problem_exact(monkeypatch):
    for theta in (0.1, 0.5, 0.9):
        q = Bernoulli(T(theta))
        best = optimal_constant(lambda b: 4 * b - 1, q)
        assert best.item() == pytest.approx((1 - theta) * 3 + theta * -1)
        estimate, _ = over_samples(monkeypatch, Constant(best), lambda b: 4 * b - 1, q, 1)
        # theta entered through q: each of the two outcomes has the exact gradient
        slopes = [torch.autograd.grad(e, q.probs, retain_graph=True)[0].item() for e in estimate]
        assert slopes == pytest.approx([4.0, 4.0])


def test_optimal_constant_from_a_pilot():
    """By hand on the same draws; for the parameters that want a gradient, or for all."""
    f, draws = torch.square, {}
    mu, sigma = torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([1.0, 2.0], dtype=F64)
    for wanted in ("loc", "scale", "both", "none"):
        loc = mu.clone().requires_grad_(wanted in ("loc", "both"))
        scale = sigma.clone().requires_grad_(wanted in ("scale", "both"))
        torch.manual_seed(1)
        got = optimal_constant(f, Normal(loc, scale), num_samples=50)
        torch.manual_seed(1)
        z = Normal(mu, sigma).sample((50,))
        eps = (z - mu) / sigma
        score = {"loc": eps / sigma, "scale": (eps**2 - 1) / sigma}
        names = [wanted] if wanted in score else list(score)
        size = sum(score[name] ** 2 for name in names)
        torch.testing.assert_close(got, (z**2 * size).sum(0) / size.sum(0))
        draws[wanted] = got
    torch.testing.assert_close(draws["both"], draws["none"])
    torch.manual_seed(2)
    a = optimal_constant(f, Normal(mu, sigma))
    torch.manual_seed(2)
    torch.testing.assert_close(a, optimal_constant(f, Normal(mu, sigma), num_samples=1000))
    exact = optimal_constant(lambda b: b, Bernoulli(torch.tensor(0.9, dtype=F64)))
    pilot = optimal_constant(lambda b: b, Bernoulli(torch.tensor(0.9, dtype=F64)), 5000)
    assert exact.item() == pytest.approx(0.1)
    assert pilot != exact
    assert pilot.item() == pytest.approx(0.1, abs=0.05)


def test_optimal_constant_of_many_and_of_none():
    """17 bits are more than are summed; a score that is 0 throughout has no best constant."""
    many = Independent(Bernoulli(torch.full((17,), 0.5)), 1)
    counted = []
    optimal_constant(lambda b: (counted.append(len(b)), b.sum(-1))[1], many)
    few = Independent(Bernoulli(torch.full((16,), 0.5)), 1)
    optimal_constant(lambda b: (counted.append(len(b)), b.sum(-1))[1], few)
    assert counted == [1000, 2**16]
    flat = optimal_constant(lambda b: b, Bernoulli(logits=torch.tensor([200.0, 0.0])))
    assert flat.tolist() == [0.0, 0.5]
    batch = optimal_constant(lambda b: b.sum(-1), bits(torch.zeros(2, 3, 4)))
    assert batch.shape == (2, 3)
    w = torch.tensor(1.0, requires_grad=True)
    assert not optimal_constant(lambda b: w * b, Bernoulli(torch.tensor(0.3))).requires_grad


# --- value and the parameters of f ---------------------------------------------------------------


@pytest.mark.parametrize("name", fixed_baselines())
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_value_and_the_parameters_of_f_are_untouched(name, dtype):
    baseline = fixed_baselines()[name]
    w = torch.tensor(1.7, dtype=dtype, requires_grad=True)
    got = {}
    for which in (None, baseline):
        torch.manual_seed(6)
        q = Bernoulli(logits=torch.tensor([0.2, 1.0], dtype=dtype, requires_grad=True))
        estimate = ScoreFunction(which)(lambda b: 1e3 * w**2 * b + 0.1, q, 3)
        assert estimate.dtype == dtype
        got[which] = estimate.detach(), torch.autograd.grad(estimate.sum(), w)[0]
    assert torch.equal(got[None][0], got[baseline][0])
    assert torch.equal(got[None][1], got[baseline][1])


@pytest.mark.parametrize("name", fixed_baselines())
def test_per_sample(name):
    """`(f(z_k) - b_k) ∇ log q(z_k)`, with the b of each baseline by hand."""
    baseline = fixed_baselines()[name]
    logits = T([0.3, -0.4])
    torch.manual_seed(6)
    estimate = ScoreFunction(baseline)(lambda b: 3 * b + 1, Bernoulli(logits=logits), 4)
    (got,) = torch.autograd.grad(estimate.sum(), logits)
    torch.manual_seed(6)
    z = Bernoulli(logits=logits).sample((4,))
    f = 3 * z + 1
    if name == "leave one out":
        b = torch.stack([f[torch.arange(4) != k].mean(0) for k in range(4)])
    else:
        b = {
            "constant": lambda: -2.5,
            "average": lambda: 4.0,
            "learned": lambda: baseline.learned.network(baseline.x),
            "nvil": lambda: baseline.learned.network(baseline.x) + 3,
            "a function": lambda: 7.0,
        }[name]()
    expected = ((f - b) * (z - logits.sigmoid())).mean(0).detach()
    torch.testing.assert_close(got, expected)


def test_a_baseline_broadcasts_and_is_a_constant():
    """Dimensions of size 1 are welcome, and a graph that the baseline has is not followed."""
    w = T([[1.5]])
    slopes = []
    for baseline in (Constant(1.5), Constant(w), lambda values: w.expand(4, 1)):
        logits = T([0.3, -0.4, 1.0])
        torch.manual_seed(6)
        estimate = ScoreFunction(baseline)(lambda b: 3 * b, Bernoulli(logits=logits), 4)
        slope, to_w = torch.autograd.grad(estimate.sum(), (logits, w), allow_unused=True)
        slopes.append(slope)
        assert to_w is None
    assert torch.equal(slopes[0], slopes[1])
    assert torch.equal(slopes[0], slopes[2])


def test_a_baseline_sees_values_without_a_graph():
    seen, w = [], T(1.5)

    def baseline(values):
        seen.append(values)
        return values.new_zeros(())

    ScoreFunction(baseline)(lambda b: w * b, Bernoulli(logits=T([0.3])), 4)
    assert not seen[0].requires_grad


def test_no_gradient_of_a_prediction_reaches_its_input():
    x = torch.ones(3, 2, requires_grad=True)
    for learned in (Learned(nn.Linear(2, 1)), NVIL(nn.Linear(2, 1))):
        b = learned.predict(x)
        to_x, to_weight = torch.autograd.grad(
            b.sum(), (x, learned.network.weight), allow_unused=True
        )
        assert to_x is None and to_weight.tolist() == [[3, 3]]


# --- moving average ------------------------------------------------------------------------------


def test_moving_average_knows_earlier_calls_only():
    average, decay = MovingAverage(decay=0.8), 0.8
    means = [3.0, -1.0, 7.0, 2.0]
    for k, mean in enumerate(means):
        values = torch.tensor([[mean - 1, mean], [mean, mean + 1]])
        weights = [decay ** (k - 1 - i) for i in range(k)]
        expected = sum(w * m for w, m in zip(weights, means, strict=False)) / max(sum(weights), 1)
        if k:
            expected = sum(w * m for w, m in zip(weights, means, strict=False)) / sum(weights)
        assert average(values).item() == pytest.approx(expected, abs=1e-5)
    before = average.average().item()
    average.eval()
    assert average(torch.full((3,), 100.0)).item() == pytest.approx(before)
    assert average.average().item() == before
    assert MovingAverage().decay == 0.9
    last = MovingAverage(decay=0.0)
    assert [last(torch.tensor([m])).item() for m in means] == [0.0, 3.0, -1.0, 7.0]


def test_moving_average_moves_with_gradients_only():
    average = MovingAverage()
    estimator = ScoreFunction(average)
    with torch.no_grad():
        estimator(torch.square, Normal(T(1.0), 1.0))
    estimator(torch.square, Normal(1.0, 1.0))
    assert average.weight == 0
    estimator(torch.square, Normal(T(1.0), 1.0))
    assert average.weight > 0
    again = MovingAverage()
    again.load_state_dict(average.state_dict())
    assert again.average() == average.average()


@pytest.mark.parametrize("kind", [MovingAverage, Learned, NVIL])
def test_measure_freezes_what_a_baseline_holds(kind):
    if kind is MovingAverage:
        module = baseline = MovingAverage()
        module(torch.tensor([2.0]))
    else:
        module = kind(linear())
        baseline = module.at(torch.ones(2, dtype=F64))
    state = copy.deepcopy(module.state_dict())
    measure(
        ScoreFunction(baseline),
        lambda b: b,
        one_bit,
        {"logit": torch.tensor(0.5, dtype=F64)},
        replicates=10,
    )
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
    assert all(w.grad is None for w in module.parameters())
    assert all(m.training for m in module.modules())


# --- learned baselines ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Learned, NVIL])
@pytest.mark.parametrize("loss", [1.0, -1.0, 10.0])
def test_a_network_learns_the_same_from_any_loss(kind, loss):
    """The gradient of the mean squared error, once for each backward, by hand."""
    torch.manual_seed(3)
    learned, x = kind(linear()), torch.randn(5, 2, dtype=F64, requires_grad=True)
    w, logits = T(3.0), torch.zeros(5, dtype=F64, requires_grad=True)
    seen = []
    estimate = ScoreFunction(learned.at(x))(
        lambda b: (seen.append(b), w * b)[1], Bernoulli(logits=logits), 4
    )
    assert learned.network.weight.grad is None
    (loss * estimate.sum()).backward()
    again = copy.deepcopy(learned.network)
    again.zero_grad()
    (3 * seen[0] - again(x.detach()).squeeze(-1)).square().mean().backward()
    torch.testing.assert_close(learned.network.weight.grad, again.weight.grad)
    torch.testing.assert_close(learned.network.bias.grad, again.bias.grad)
    assert x.grad is None
    torch.testing.assert_close(w.grad, loss * seen[0].mean(0).sum())
    signal = 3 * seen[0] - learned.network(x).squeeze(-1)
    expected = (signal * (seen[0] - 0.5)).mean(0).detach()
    torch.testing.assert_close(logits.grad, loss * expected)


def test_a_network_in_eval_mode_is_not_trained():
    learned = Learned(linear()).eval()
    logits = T([0.0, 1.0])
    estimate = ScoreFunction(learned.at(torch.ones(2, 2, dtype=F64)))(
        lambda b: b, Bernoulli(logits=logits)
    )
    estimate.sum().backward()
    assert logits.grad is not None
    assert learned.network.weight.grad is None


def test_a_frozen_weight_and_an_unused_one():
    """Weights that want no gradient get none, and those the prediction does not use get zero."""

    class Partly(nn.Linear):
        def __init__(self):
            super().__init__(2, 1, dtype=F64)
            self.unused = nn.Parameter(torch.ones(1))

    learned = Learned(Partly())
    learned.network.bias.requires_grad_(False)
    x, logits = torch.ones(3, 2, dtype=F64), T([0.0, 0.0, 0.0])
    ScoreFunction(learned.at(x))(lambda b: b, Bernoulli(logits=logits)).sum().backward()
    assert learned.network.bias.grad is None
    assert learned.network.unused.grad.item() == 0
    assert learned.network.weight.grad.abs().sum() > 0
    learned = Learned(linear()).requires_grad_(False)
    ScoreFunction(learned.at(x))(lambda b: b, Bernoulli(logits=logits)).sum().backward()


def test_learned_learns_the_mean_at_each_input():
    """`f = (1 + x) b` at θ = 1/2: the network finds `(1 + x) / 2`, and leaves less variance."""
    learned = Learned(nn.Linear(1, 1))
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.3)
    x = torch.linspace(-1, 1, 64)[:, None]
    for _ in range(200):
        logits = torch.zeros(64, requires_grad=True)
        optimizer.zero_grad()
        estimate = ScoreFunction(learned.at(x))(
            lambda b: (1 + x[:, 0]) * b, Bernoulli(logits=logits), 16
        )
        (-estimate.mean()).backward()
        optimizer.step()
    assert learned.network.weight.item() == pytest.approx(0.5, abs=0.1)
    assert learned.network.bias.item() == pytest.approx(0.5, abs=0.1)


def test_network_of_either_shape():
    x = torch.ones(3, 2)
    for network in (nn.Linear(2, 1), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))):
        assert Learned(network).predict(x).shape == (3,)
    with pytest.raises(
        ValueError, match=r"one number for each input.*\(3,\) or \(3, 1\), got \(3, 2\)"
    ):
        Learned(nn.Linear(2, 2)).predict(x)


# --- NVIL ----------------------------------------------------------------------------------------


def test_nvil_by_hand_over_calls():
    """Center and scale come from earlier calls; three of them, with the paper's moving averages."""
    torch.manual_seed(5)
    nvil, x = NVIL(linear(), decay=0.7), torch.randn(6, 2, dtype=F64)
    averages, weight = [0.0, 0.0], 0.0
    for call in range(3):
        logits = T([0.1] * 6)
        w = T(40.0)
        seen = []
        estimate = ScoreFunction(nvil.at(x))(
            lambda b, w=w, seen=seen: (seen.append(b), w * b)[1], Bernoulli(logits=logits), 3
        )
        center, variance = (a / weight if weight else 0.0 for a in averages)
        left = 40 * seen[0] - nvil.network(x).squeeze(-1).detach()
        signal = (left - center) / max(1.0, math.sqrt(variance))
        assert estimate.detach().tolist() == pytest.approx((40 * seen[0]).mean(0).tolist())
        slopes = torch.autograd.grad(estimate.sum(), (logits, w))
        expected = (signal * (seen[0] - logits.sigmoid())).mean(0).detach()
        torch.testing.assert_close(slopes[0], expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(slopes[1], seen[0].mean(0).sum())
        new = left.mean().item(), left.var(correction=0).item()
        averages = [0.7 * a + 0.3 * b for a, b in zip(averages, new, strict=True)]
        weight = 0.7 * weight + 0.3
        assert call == 0 or variance > 1
    assert nvil.scale().item() > 1
    nvil.eval()
    state = copy.deepcopy(nvil.state_dict())
    ScoreFunction(nvil.at(x))(lambda b: b, Bernoulli(logits=T([0.1] * 6)))
    assert all(torch.equal(state[k], v) for k, v in nvil.state_dict().items())


def test_nvil_divides_by_one_at_least():
    nvil = NVIL(linear())
    nvil.variance.update(torch.tensor(0.25))
    assert nvil.scale() == 1
    nvil.variance.update(torch.tensor(1e6))
    assert nvil.scale() > 100
    assert nvil.mean.decay == nvil.variance.decay == 0.9


def test_nvil_has_first_derivatives_only():
    x, logits = torch.ones(2, dtype=F64), T(0.3)
    estimate = ScoreFunction(NVIL(linear()).at(x))(lambda b: b, Bernoulli(logits=logits))
    (slope,) = torch.autograd.grad(estimate, logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="NVIL has first derivatives only"):
        slope.backward()


# --- where users take it -------------------------------------------------------------------------


def test_estimators_with_baselines_are_values():
    average = MovingAverage()
    pairs = [(LeaveOneOut(), LeaveOneOut()), (Constant(2.0), Constant(2.0)), (average, average)]
    for a, b in pairs:
        assert ScoreFunction(a) == ScoreFunction(b)
        assert len({ScoreFunction(a), ScoreFunction(b)}) == 1
    assert ScoreFunction(average) != ScoreFunction(MovingAverage())
    assert ScoreFunction() != ScoreFunction(LeaveOneOut())
    learned, x = Learned(nn.Linear(2, 1)), torch.ones(3, 2)
    once = learned.at(x)
    assert ScoreFunction(once) == ScoreFunction(once) != ScoreFunction(learned.at(x))
    with pytest.raises(dataclasses.FrozenInstanceError):
        once.x = x
    with pytest.raises(dataclasses.FrozenInstanceError):
        ScoreFunction().baseline = LeaveOneOut()


@pytest.mark.parametrize("name", [n for n in fixed_baselines() if n != "a function"])
def test_batches_and_devices(name, device):
    """Baselines broadcast over samples and batch, and over the replicates of `measure`."""
    baseline = fixed_baselines()[name]
    if name in ("learned", "nvil"):
        network = linear(dtype=torch.float32)
        kind = Learned if name == "learned" else NVIL
        baseline = kind(network).to(device).at(torch.ones(3, 2, device=device))
    for shape in ((3,), (7, 3)):
        logits = torch.zeros(shape, device=device, requires_grad=True)
        estimate = ScoreFunction(baseline)(lambda b: b, Bernoulli(logits=logits), 2)
        estimate.sum().backward()
        assert estimate.shape == logits.grad.shape == shape
    best = optimal_constant(lambda b: b, Bernoulli(logits=logits.detach()))
    assert best.shape == (7, 3) and best.device == logits.device


@pytest.mark.parametrize("name", fixed_baselines())
def test_under_torch_func(name):
    estimator = ScoreFunction(fixed_baselines()[name])

    def loss(logits):
        q = Bernoulli(logits=logits, validate_args=False)
        return estimator(lambda b: 3 * b, q, 2).sum()

    torch.manual_seed(0)
    got = torch.func.grad(loss)(torch.ones(3, dtype=F64))
    torch.manual_seed(0)
    logits = torch.ones(3, dtype=F64, requires_grad=True)
    torch.testing.assert_close(got, torch.autograd.grad(loss(logits), logits)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leave one out", "constant", "average"])
def test_under_torch_compile(name):
    estimator = ScoreFunction(fixed_baselines()[name])

    def loss(logits):
        return estimator(lambda b: 3 * b, Bernoulli(logits=logits, validate_args=False), 2).sum()

    logits = torch.ones(3, requires_grad=True)
    torch.manual_seed(0)
    expected = torch.autograd.grad(loss(logits), logits)[0]
    torch.manual_seed(0)
    compiled = torch.compile(loss, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(logits), logits)[0], expected)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: ScoreFunction(0.5), TypeError, r"got float: for a number use Constant\(0.5\)"),
        (
            lambda: ScoreFunction(LeaveOneOut),
            TypeError,
            r"got the class LeaveOneOut: use LeaveOneOut\(\)",
        ),
        (lambda: ScoreFunction(Learned(linear())), TypeError, r"pass baseline=learned.at\(x\)"),
        (lambda: ScoreFunction(NVIL(linear())), TypeError, r"pass baseline=nvil.at\(x\)"),
        (lambda: Constant("mean"), TypeError, "must be a number or a tensor, got str"),
        (lambda: Constant(True), TypeError, "must be a number or a tensor, got bool"),
        (lambda: MovingAverage(1.0), ValueError, "at least 0 and less than 1, got 1.0"),
        (lambda: MovingAverage(-0.1), ValueError, "at least 0 and less than 1, got -0.1"),
        (lambda: NVIL(linear(), decay=2), ValueError, "less than 1, got 2"),
        (lambda: Learned(torch.square), TypeError, "network must be an nn.Module, got builtin"),
        (lambda: Learned(linear()).at(3), TypeError, "x must be a tensor of inputs, got int"),
    ],
)
def test_bad_baselines(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize(
    ("baseline", "error", "says"),
    [
        (LeaveOneOut(), ValueError, "LeaveOneOut needs num_samples of at least 2, got 1"),
        (Constant(torch.ones(3)), ValueError, r"fit the values of f, \(1, 2\).* got \(3,\)"),
        (Constant(torch.ones(1, 1, 2)), ValueError, r"fit the values of f.* got \(1, 1, 2\)"),
        (Constant(torch.ones(4, 2)), ValueError, r"fit the values of f.* got \(4, 2\)"),
        (lambda values: 0.5, TypeError, "a baseline must return a tensor, got float"),
    ],
)
def test_baselines_that_do_not_fit(baseline, error, says):
    q = Bernoulli(logits=torch.zeros(2, requires_grad=True))
    with pytest.raises(error, match=says):
        ScoreFunction(baseline)(lambda b: b, q)


def test_bad_pilots():
    with pytest.raises(TypeError, match="Distribution, got int"):
        optimal_constant(torch.square, 3)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        optimal_constant(torch.square, Normal(0.0, 1.0), 0)
    with pytest.raises(ValueError, match="f returned NaN"):
        optimal_constant(lambda b: b * math.nan, Categorical(torch.ones(3)))


# --- supports that move, or seem to --------------------------------------------------------------


def transformed(base, *steps):
    return TransformedDistribution(base, list(steps))


class UpTo(Independent):
    """A layer with an edge of its own."""

    def __init__(self, base, edge):
        super().__init__(base, 0, validate_args=False)
        self.edge = edge

    @property
    def support(self):
        return constraints.interval(0.0, self.edge)


class Labeled(AffineTransform):
    """Holds a tensor that it does not use."""

    def __init__(self, loc, scale):
        super().__init__(loc, scale)
        self.label = torch.ones((), requires_grad=True)


UNIT = Uniform(0.0, 1.0)
MOVING = {
    "scaled": lambda p: transformed(UNIT, AffineTransform(0.0, p + 2)),
    "shifted": lambda p: transformed(Exponential(1.0), AffineTransform(p, 1.0)),
    "exp of scaled": lambda p: transformed(UNIT, AffineTransform(0.0, p + 2), ExpTransform()),
    "composed": lambda p: transformed(
        UNIT, ComposeTransform([ExpTransform(), AffineTransform(p, 2.0)])
    ),
    "inverse": lambda p: transformed(UNIT, AffineTransform(p, 2.0).inv),
    "base": lambda p: transformed(Uniform(0.0, p + 2), ExpTransform()),
    "independent": lambda p: Independent(
        transformed(Uniform(torch.zeros(3), 1.0), AffineTransform(0.0, p + 2)), 1
    ),
    "inner": lambda p: transformed(transformed(UNIT, AffineTransform(0.0, p + 2)), ExpTransform()),
    "hidden": lambda p: transformed(UNIT, CumulativeDistributionTransform(Normal(p, 1.0))),
    "labeled": lambda p: transformed(UNIT, Labeled(0.0, p + 2)),
    "layer": lambda p: UpTo(Uniform(0.0, 9.0), p + 2),
    "several at once": lambda p: transformed(
        Independent(Uniform(torch.zeros(2), 1.0), 1), AffineTransform(0.0, p + 2, event_dim=1)
    ),
}
STILL = {
    "real": lambda p: transformed(Normal(0.0, 1.0), AffineTransform(p, p + 2)),
    "scaled half-line": lambda p: transformed(Exponential(1.0), AffineTransform(0.0, p + 2)),
    "power of the unit interval": lambda p: transformed(UNIT, PowerTransform(p + 2)),
    "logistic": lambda p: transformed(UNIT, SigmoidTransform().inv, AffineTransform(p, p + 2)),
    "a shift of nothing": lambda p: transformed(Normal(p, 1.0), SigmoidTransform()),
    "fixed": lambda p: transformed(Beta(p + 2, 1.0), AffineTransform(-1.0, 2.0)),
    "Gumbel": lambda p: Gumbel(p, p + 1),
    "LogNormal": lambda p: LogNormal(p, 1.0),
    "Weibull": lambda p: Weibull(p + 1, p + 2),
    "Kumaraswamy": lambda p: Kumaraswamy(p + 2, p + 3),
}


@pytest.mark.parametrize("name", MOVING)
def test_a_support_that_moves_inside_a_transform_is_found(name):
    p = torch.tensor(0.3, requires_grad=True)
    with pytest.raises(ValueError, match=r"ScoreFunction.* support moves .*use Pathwise"):
        ScoreFunction()(torch.clone, MOVING[name](p))
    ScoreFunction()(lambda z: z.reshape(len(z), -1).sum(-1), MOVING[name](p.detach()))


@pytest.mark.parametrize("name", STILL)
def test_a_support_that_stays_is_let_through(name):
    p = torch.tensor(0.3, requires_grad=True)
    ScoreFunction()(torch.clone, STILL[name](p)).backward()
    assert p.grad.isfinite()


def test_a_distribution_without_support_says_so():
    class Mine(Distribution):
        arg_constraints = {}  # noqa: RUF012

        def sample(self, shape=()):
            return torch.zeros(*shape)

        def log_prob(self, z):
            return -z

    for estimator in (ScoreFunction(), Pathwise(implicit=True)):
        with pytest.raises(ValueError, match=r"Mine does not say where its samples lie.*support"):
            estimator(torch.clone, Mine(validate_args=False))


# --- what a transform has cached, and what is infinite -------------------------------------------


@pytest.mark.parametrize("baseline", [None, LeaveOneOut()])
def test_a_transform_that_caches_does_not_hide_the_density(baseline):
    gradients = []
    for size in (0, 1):
        p = T(0.3)
        steps = [AffineTransform(p, 1.0, cache_size=size), ExpTransform(cache_size=size)]
        torch.manual_seed(0)
        q = Independent(TransformedDistribution(Normal(torch.zeros(2, dtype=F64), 1.0), steps), 1)
        ScoreFunction(baseline)(lambda z: z.sum(-1), q, 3).backward()
        gradients.append(p.grad)
    assert gradients[0] != 0
    torch.testing.assert_close(*gradients)


def test_an_infinite_density_or_value_is_named():
    a = torch.full((5000,), 0.1, requires_grad=True)
    for estimator in (ScoreFunction(), ScoreFunction(LeaveOneOut())):
        with pytest.raises(ValueError, match=r"log q of Kumaraswamy is infinite or NaN at \d+ of"):
            estimator(torch.clone, Kumaraswamy(a, a), 2)
        with pytest.raises(ValueError, match="ScoreFunction has no finite gradient: f is infinite"):
            estimator(lambda z: z.log(), Bernoulli(logits=a), 2)
        value = estimator(lambda z: z.log(), Bernoulli(logits=a.detach()), 2)
        assert value.isinf().any()  # without a gradient it is what it is


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_baseline_that_is_no_number(number):
    loc = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="a baseline must be finite"):
        ScoreFunction(lambda values: torch.full((2,), number))(torch.square, Normal(loc, 1.0), 3)
