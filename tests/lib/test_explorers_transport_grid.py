"""`transport` and `warped_grid`: their arithmetic, run in Node, against torch and the library."""

import math

import pytest
import torch
from torch import distributions as td

from reparam.distributions import inverse_cdf
from reparam.explorers import transport
from reparam.explorers.build import run_javascript

# From torch.distributions, whose formulas are nobody's here, by θ.
ONE = torch.ones((), dtype=torch.float64)
FAMILIES = {
    "exponential": lambda t: td.Exponential(t),
    "gumbel": lambda t: td.Gumbel(0 * t, t),
    "weibull": lambda t: td.Weibull(ONE, t),
    "kumaraswamy": lambda t: td.Kumaraswamy(t, 2 * ONE),
    "cauchy": lambda t: td.Cauchy(0 * t, t),
    "logistic": lambda t: td.TransformedDistribution(
        td.Uniform(0 * ONE, ONE),
        [td.SigmoidTransform().inv, td.AffineTransform(t, 1)],
        validate_args=False,
    ),
}
# The library's samples, given the noise that belongs to u.
LIBRARY = {
    "exponential": ("reparameterize_exponential", lambda t: (t,)),
    "logistic": ("reparameterize_logistic", lambda t: (t, torch.ones_like(t))),
    "gumbel": ("reparameterize_gumbel", lambda t: (torch.zeros_like(t), t)),
    "weibull": ("reparameterize_weibull", lambda t: (torch.ones_like(t), t)),
    "kumaraswamy": ("reparameterize_kumaraswamy", lambda t: (t, torch.full_like(t, 2.0))),
}
NOISE = {
    "exponential_noise": lambda u: -torch.log1p(-u),
    "logistic_noise": torch.logit,
    "gumbel_noise": lambda u: -torch.log(-torch.log(u)),
}
U = (torch.arange(20, dtype=torch.float64) + 0.5) / 20


def view(explorer, **changes):
    """Every number that the page shows in this state, computed by the page's own code."""
    explorer.state.update(changes)
    return run_javascript(explorer, "widget.spec.model(state)")


@pytest.mark.parametrize("theta", [0.6, 1.0, 1.85, 2.4])
@pytest.mark.parametrize("family", FAMILIES)
def test_samples_and_speeds_against_torch(family, theta):
    got = view(transport(), family=family, theta=theta)
    assert got["u"] == pytest.approx(U.tolist(), rel=1e-15)
    parameter = torch.full((20,), theta, dtype=torch.float64, requires_grad=True)
    z = FAMILIES[family](parameter).icdf(U)
    (speed,) = torch.autograd.grad(z.sum(), parameter)
    assert got["z"] == pytest.approx(z.tolist(), rel=1e-9, abs=1e-12)
    assert got["speed"] == pytest.approx(speed.tolist(), rel=1e-9, abs=1e-9)
    q = FAMILIES[family](parameter)
    density = q.log_prob(z.detach()).exp()
    assert got["density"] == pytest.approx(density.tolist(), rel=1e-9)
    (fall,) = torch.autograd.grad(q.cdf(z.detach()).sum(), parameter)
    assert got["gap"] == pytest.approx((-fall).tolist(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("theta", [0.6, 1.0, 2.4])
@pytest.mark.parametrize("family", LIBRARY)
def test_samples_and_speeds_are_the_librarys(family, theta, monkeypatch):
    """`reparam.distributions` draws its own noise: here it is handed what belongs to u."""
    for name, noise in NOISE.items():
        monkeypatch.setattr(inverse_cdf, name, lambda *_, noise=noise, **__: noise(U))
    parameter = torch.full((20,), theta, dtype=torch.float64, requires_grad=True)
    name, arguments = LIBRARY[family]
    z = getattr(inverse_cdf, name)(*arguments(parameter))
    z.sum().backward()
    got = view(transport(), family=family, theta=theta)
    assert got["z"] == pytest.approx(z.tolist(), rel=1e-9, abs=1e-12)
    assert got["speed"] == pytest.approx(parameter.grad.tolist(), rel=1e-9, abs=1e-9)


def hills(weight):
    mixing = td.Categorical(torch.stack([1 - weight, weight]))
    return td.MixtureSameFamily(mixing, td.Normal(torch.tensor([-2.0, 2.0]).double(), 0.7 * ONE))


@pytest.mark.parametrize("weight", [0.1, 0.475, 0.5, 0.9])
def test_two_gaussians_against_torch(weight):
    got = view(transport(), family="mixture", weight=weight)
    pi = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    z = torch.tensor(got["z"], dtype=torch.float64)
    q = hills(pi)
    assert q.cdf(z).tolist() == pytest.approx(U.tolist(), abs=1e-12)
    assert got["density"] == pytest.approx(q.log_prob(z).exp().tolist(), rel=1e-9)
    fall = torch.func.jacrev(lambda p: hills(p).cdf(z))(pi.detach())
    assert got["gap"] == pytest.approx((-fall).tolist(), rel=1e-9)
    # The speed, without a derivative of F: where the samples are a little before and after.
    h = 1e-5
    after, before = (view(transport(), family="mixture", weight=weight + s)["z"] for s in (h, -h))
    slope = [(a - b) / (2 * h) for a, b in zip(after, before, strict=True)]
    assert got["speed"] == pytest.approx(slope, rel=1e-3)


def test_every_curve_is_the_cdf_that_its_samples_lie_on():
    for family, make in FAMILIES.items():
        explorer = transport()
        explorer.state.update(family=family, theta=1.7)
        drawn = "widget.spec.model(state).family"
        low, high = run_javascript(explorer, f"{drawn}.ends")
        z = torch.linspace(low, high, 9, dtype=torch.float64)[1:-1]
        want = make(1.7 * ONE).cdf(z)
        got = run_javascript(explorer, f"{z.tolist()}.map((z) => {drawn}.F(z, 1.7))")
        assert got == pytest.approx(want.tolist(), rel=1e-9, abs=1e-12)


def test_what_the_verdict_says_of_the_exponential():
    before, after = (view(transport(), theta=theta) for theta in (1.0, 2.0))
    moved = [a - b for a, b in zip(before["z"], after["z"], strict=True)]
    assert moved.index(max(moved)) == 19
    explorer = transport()
    explorer.state.update(guess="middle", seen="yes")
    words = run_javascript(explorer, "widget.spec.ask.verdict(widget.spec.model(state))")
    assert f"from {before['z'][19]:.2f} to {after['z'][19]:.2f}." in words
    # "The gap is widest near the middle", of the whole step and at the start.
    assert 8 < before["gap"].index(min(before["gap"])) < 14
    steps = [math.exp(-z) - math.exp(-2 * z) for z in before["z"]]
    assert 8 < steps.index(max(steps)) < 14
    assert before["density"] == sorted(before["density"], reverse=True)


def test_one_sample_races_only_between_the_hills():
    goal = "widget.spec.goal(widget.spec.model({...state, family, theta, weight}))"
    explorer = transport()
    assert run_javascript(explorer, "widget.spec.goal(widget.spec.model(state))") is False
    explorer.state.update(guess="largest", seen="yes")
    done = run_javascript(
        explorer,
        """(() => {
            const done = [], { family: { among } } = widget.spec.fields;
            const reached = (family, theta, weight) => GOAL.done;
            for (const family of among) for (let i = 12; i <= 48; i++)
                if (family !== "mixture" && reached(family, i / 20, 0.5)) done.push(family);
            for (let i = 4; i <= 36; i++) if (reached("mixture", 1, i / 40)) done.push(i);
            return done;
        })()""".replace("GOAL", goal),
    )
    assert done == list(range(5, 37, 2)), "every other click of the weight, and nowhere else"


def test_the_speeds_stay_covered_until_the_rate_has_doubled():
    shown = """(() => {
        const out = [];
        for (const [key, value] of [["", ""], ["guess", "alike"], ["theta", 1.5], ["theta", 2]]) {
            if (key) { state[key] = value; widget.spec.moved(state, key); }
            const view = widget.spec.model(state), size = { width: 700, font: 14 };
            const words = [widget.spec.ask.verdict, widget.spec.status, widget.spec.story]
                .map((say) => say.call(widget.spec, view)).join(" ");
            const visible = widget.spec.controls.filter((c) => !c.show || c.show(view));
            const drawn = widget.spec.draw(view, widget.spec.layout(size, view));
            out.push([words.includes("largest"), drawn.includes("arrows:"), visible.length]);
        }
        return out;
    })()"""
    explorer = transport()
    explorer.state.update(guess="alike")
    assert run_javascript(explorer, shown) == [
        [False, False, 1],
        [False, False, 1],
        [False, False, 1],
        [True, True, 3],
    ]
