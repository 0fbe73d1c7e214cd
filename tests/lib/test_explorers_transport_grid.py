"""`transport` and `warped_grid`: their arithmetic, run in Node, against torch and the library."""

import json
import math

import numpy as np
import pytest
import torch
from torch import distributions as td

from reparam.distributions import inverse_cdf
from reparam.explorers import transport, warped_grid
from reparam.explorers.build import run_javascript
from reparam.flows import PlanarFlow, RadialFlow

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


def views(explorer, states):
    """Every number that the page shows in each of these states, computed by the page's own code."""
    many = f"{json.dumps(states)}.map((s) => widget.spec.model({{ ...state, ...s }}))"
    return run_javascript(explorer, many)


def view(explorer, **changes):
    return views(explorer, [changes])[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_and_speeds_against_torch(family):
    thetas = [0.6, 1.0, 1.85, 2.4]
    for theta, got in zip(
        thetas, views(transport(), [{"family": family, "theta": t} for t in thetas]), strict=True
    ):
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


@pytest.mark.parametrize("family", LIBRARY)
def test_samples_and_speeds_are_the_librarys(family, monkeypatch):
    """`reparam.distributions` draws its own noise: here it is handed what belongs to u."""
    for name, noise in NOISE.items():
        monkeypatch.setattr(inverse_cdf, name, lambda *_, noise=noise, **__: noise(U))
    thetas = [0.6, 1.0, 2.4]
    for theta, got in zip(
        thetas, views(transport(), [{"family": family, "theta": t} for t in thetas]), strict=True
    ):
        parameter = torch.full((20,), theta, dtype=torch.float64, requires_grad=True)
        name, arguments = LIBRARY[family]
        z = getattr(inverse_cdf, name)(*arguments(parameter))
        z.sum().backward()
        assert got["z"] == pytest.approx(z.tolist(), rel=1e-9, abs=1e-12)
        assert got["speed"] == pytest.approx(parameter.grad.tolist(), rel=1e-9, abs=1e-9)


def hills(weight):
    mixing = td.Categorical(torch.stack([1 - weight, weight]))
    return td.MixtureSameFamily(mixing, td.Normal(torch.tensor([-2.0, 2.0]).double(), 0.7 * ONE))


def test_two_gaussians_against_torch():
    weights, h = [0.1, 0.475, 0.5, 0.9], 1e-5
    states = [{"family": "mixture", "weight": w + s} for w in weights for s in (0, -h, h)]
    shown = iter(views(transport(), states))
    for weight in weights:
        got, before, after = next(shown), next(shown)["z"], next(shown)["z"]
        pi = torch.tensor(weight, dtype=torch.float64)
        z = torch.tensor(got["z"], dtype=torch.float64)
        q = hills(pi)
        assert q.cdf(z).tolist() == pytest.approx(U.tolist(), abs=1e-12)
        assert got["density"] == pytest.approx(q.log_prob(z).exp().tolist(), rel=1e-9)
        fall = torch.func.jacrev(lambda p, z=z: hills(p).cdf(z))(pi)
        assert got["gap"] == pytest.approx((-fall).tolist(), rel=1e-9)
        # The speed, without a derivative of F: where the samples are a little before and after.
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
    before, after = views(transport(), [{"theta": 1.0}, {"theta": 2.0}])
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


W = torch.tensor([1.2, 0.9], dtype=torch.float64)
ACROSS = torch.tensor([-0.9, 1.2], dtype=torch.float64)
CENTER = torch.tensor([-0.4, 0.4], dtype=torch.float64)
SIDE = 0.4


def vector(pull, across):
    """The u whose product with w is `pull`, and `across` long at a right angle to w."""
    return pull * W / (W @ W) + across * ACROSS / ACROSS.norm()


def librarys(layer, pull, across):
    """The library's layer with these as its raw parameters."""
    flow = {"planar": PlanarFlow, "radial": RadialFlow}[layer](2).double()
    given = {"u": vector(pull, across), "w": W} if layer == "planar" else {"center": CENTER}
    if layer == "radial":
        given |= {"a": torch.zeros(()), "b": torch.tensor(pull, dtype=torch.float64)}
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            parameter.copy_(given.get(name, torch.zeros(())))
    return flow


def unconstrained(layer, s, across):
    """The library's layer whose effective w·û or β is `s`: its raw parameters, solved for."""
    raw = math.sinh(math.log1p(s))  # the constraint is expm1(asinh(raw))
    return librarys(layer, raw, across * raw / s)


def by_formula(layer, s, across):
    if layer == "planar":
        return lambda z: z + vector(s, across) * torch.tanh(W @ z)
    return lambda z: z + s * (z - CENTER) / (1 + (z - CENTER).norm())


def lattice():
    """Middles and corners of the 144 cells, in the page's order."""
    edges = torch.arange(12, dtype=torch.float64) * SIDE - 2.4
    start = torch.stack(torch.meshgrid(edges, edges, indexing="xy"), -1).reshape(-1, 2)
    around = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64) * SIDE
    return start + SIDE / 2, start[:, None] + around


def log_normal_density(z):
    return td.Normal(0 * ONE, ONE).log_prob(z).sum(-1)


@pytest.mark.parametrize("layer", ["planar", "radial"])
@pytest.mark.parametrize(("pull", "safe"), [(1.5, "no"), (-0.9, "no"), (1.5, "yes"), (-2.5, "yes")])
def test_grid_and_density_are_the_librarys(layer, pull, safe):
    across = 0.5
    got = view(warped_grid(), layer=layer, pull=pull, safe=safe, across=across)
    flow = (librarys if safe == "yes" else unconstrained)(layer, pull, across)
    middles, corners = lattice()
    with torch.no_grad():
        images = flow(corners)[0]
        log_det = flow(middles)[1]
    for cell, quad, log, density in zip(
        got["cells"], images, log_det, log_normal_density(middles) - log_det, strict=True
    ):
        for corner, want in zip(cell["quad"], quad, strict=True):
            assert corner == pytest.approx(want.tolist(), abs=1e-12)
        assert math.log(cell["det"]) == pytest.approx(log.item(), abs=1e-11)
        assert cell["density"] == pytest.approx(density.exp().item(), rel=1e-11)
    assert got["turned"] == 0 and not got["folded"]


@pytest.mark.parametrize("layer", ["planar", "radial"])
def test_the_folded_grid_against_autograd(layer):
    got = view(warped_grid(), layer=layer, pull=-1.9, across=-0.7)
    image = by_formula(layer, -1.9, -0.7)
    middles, corners = lattice()
    dets = torch.linalg.det(torch.func.vmap(torch.func.jacrev(image))(middles))
    assert [cell["det"] for cell in got["cells"]] == pytest.approx(dets.tolist(), abs=1e-12)
    for cell, quad in zip(got["cells"], corners, strict=True):
        for corner, start in zip(cell["quad"], quad, strict=True):
            assert corner == pytest.approx(image(start).tolist(), abs=1e-12)
    assert got["turned"] == (dets < 0).sum() > 0 and got["folded"]


@pytest.mark.parametrize("layer", ["planar", "radial"])
def test_area_times_density_of_the_traced_cell_stays(layer):
    normal = td.Normal(0 * ONE, ONE)
    low, middle, high = (normal.cdf(ONE * k * SIDE) for k in range(3))
    mass = ((middle - low) * (high - middle)).item()
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(20))
    points, weights = (nodes + 1) * SIDE / 2, weights * SIDE / 2
    z = torch.stack(torch.meshgrid(points, points + SIDE, indexing="xy"), -1)
    for pull in (1.5, -0.5, -0.95):
        got = view(warped_grid(), layer=layer, pull=pull, across=0.3)
        det = unconstrained(layer, pull, 0.3)(z)[1].exp()
        area = (weights[:, None] * weights * det).sum().item()
        assert got["areas"] == pytest.approx([SIDE**2, area], rel=2e-4)
        assert got["densities"] == pytest.approx([mass / SIDE**2, mass / area], rel=2e-4)
    # Folded, the sum over the parts is off where the fold crosses one, and still in two digits.
    for pull in (-1.3, -1.8, -2.4):
        got = view(warped_grid(), layer=layer, pull=pull)
        assert got["areas"][1] * got["densities"][1] == pytest.approx(mass, rel=0.02)
        assert got["rows"][2][1:] == ["0.021", "0.021"]


@pytest.mark.parametrize(("layer", "pull"), [("planar", -2.3), ("radial", -2.0)])
def test_where_three_points_land_the_formula_counts_one(layer, pull):
    got = view(warped_grid(), layer=layer, pull=pull, across=0.2)
    assert len(got["sources"]) == 3
    assert got["point"]["truth"] > got["point"]["formula"]
    assert min(abs(source["t"] - got["t"]) for source in got["sources"]) < 1e-9
    # What part of the Gaussian lands within a small radius: a fine lattice along the line on which
    # both layers move points, wide enough that its margin stays unused.
    image = by_formula(layer, pull, 0.2)
    y = image(torch.tensor([0.2, 0.6], dtype=torch.float64))
    assert got["y"] == pytest.approx(y.tolist(), abs=1e-12)
    ahead = vector(pull, 0.2) if layer == "planar" else y - CENTER
    ahead = ahead / ahead.norm()
    beside = torch.stack([-ahead[1], ahead[0]])
    radius, step = 0.004, 0.0004
    along = torch.arange(-4, 4, step, dtype=torch.float64) + step / 2
    across = torch.arange(-10 * radius, 10 * radius, step, dtype=torch.float64) + step / 2
    z = y + along[:, None, None] * ahead + across[:, None] * beside
    near = (torch.func.vmap(torch.func.vmap(image))(z) - y).norm(dim=-1) < radius
    assert not near[:, :2].any() and not near[:, -2:].any()
    landed = log_normal_density(z[near]).exp().sum().item() * step**2
    want = landed / (math.pi * radius**2)
    assert got["point"]["truth"] == pytest.approx(want, rel=0.02)
    assert got["point"]["formula"] < 0.9 * want


def test_the_density_doubles_just_before_the_fold():
    explorer = warped_grid()
    assert run_javascript(explorer, "widget.spec.goal(widget.spec.model(state))") is False
    explorer.state.update(guess="one", seen="yes")
    done = run_javascript(
        explorer,
        """["planar", "radial"].map((layer) => ["no", "yes"].map((safe) =>
            [...Array(81).keys()].map((i) => Math.round(5 * i - 250) / 100).filter((pull) =>
                widget.spec.goal(widget.spec.model({ ...state, layer, safe, pull })).done)))""",
    )
    planar, radial = done
    assert planar == [[-1, -0.95, -0.9], []]
    assert radial[0][0] == -1 and -0.8 < radial[0][-1] < -0.5
    assert radial[1][0] == -2.5, "constrained, any pull will do"


def test_nothing_tells_where_it_folds_before_it_has():
    shown = """(() => {
        const out = [];
        for (const [key, value] of [["", ""], ["guess", "never"], ["pull", -1], ["pull", -1.2]]) {
            if (key) { state[key] = value; widget.spec.moved(state, key); }
            const view = widget.spec.model(state), size = { width: 700, font: 14 };
            const words = [widget.spec.ask.verdict, widget.spec.status, widget.spec.story]
                .map((say) => say.call(widget.spec, view)).join(" ");
            const visible = widget.spec.controls.filter((c) => !c.show || c.show(view));
            const drawn = widget.spec.draw(view, widget.spec.layout(size, view));
            out.push([words.includes("turn"), drawn.includes("turned over"), visible.length]);
        }
        return out;
    })()"""
    explorer = warped_grid()
    explorer.state.update(guess="never")
    assert run_javascript(explorer, shown) == [
        [False, False, 1],
        [False, False, 1],
        [False, False, 1],
        [True, True, 4],
    ]
