"""The explorer of chapter 5's relaxations: its samples, gradients and exact curves."""

import math

import numpy as np
import pytest
import torch

import reparam.relaxed
from reparam.explorers import simplex
from reparam.explorers.build import run_javascript
from reparam.relaxed import gumbel_softmax

PI = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
GRID = [round(-1.3 + 0.05 * i, 2) for i in range(41)]


def views(expression, places=GRID, **changes):
    """An expression in `view`, at each log10 τ."""
    explorer = simplex()
    explorer.state.update(guess="none", seen="yes", **changes)
    return run_javascript(
        explorer,
        f"""{list(places)}.map((logtau) => {{
            const view = widget.spec.model({{ ...state, logtau }});
            return {expression};
        }})""",
    )


@pytest.mark.parametrize("logtau", [-1.3, -0.5, 0.0, 0.7])
def test_every_sample_and_gradient_is_the_librarys(logtau, monkeypatch):
    noise = simplex().noise
    monkeypatch.setattr(reparam.relaxed, "gumbel_noise", lambda *_, **__: noise)
    logits = PI.log().expand(60, 3).clone().requires_grad_()
    y = gumbel_softmax(logits, 10**logtau)
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), logits)
    (got,) = views("view", [logtau])
    torch.testing.assert_close(torch.tensor(got["samples"], dtype=torch.float64), y)
    slopes = torch.tensor(got["slopes"], dtype=torch.float64)
    torch.testing.assert_close(slopes, gradient[:, 0], rtol=1e-7, atol=1e-12)
    assert got["labels"] == y.argmax(-1).tolist()
    assert got["means"] == pytest.approx(y.mean(0).tolist(), rel=1e-12)
    assert got["slope"] == pytest.approx(slopes.mean().item(), rel=1e-12)
    assert got["deviation"] == pytest.approx(slopes.std().item(), rel=1e-12)


def test_no_temperature_changes_a_label():
    z = PI.log() + simplex().noise
    for labels, counts, moved in views("[view.labels, view.counts, view.moved]"):
        assert labels == z.argmax(-1).tolist()
        assert counts == [36, 18, 6] and moved == 0


@pytest.mark.parametrize("logtau", [-1.3, -0.9, -0.5, 0.0, 0.3, 0.7])
def test_exact_curves_against_the_librarys_samples(logtau):
    # 6 standard errors, a false alarm in 2e-9 of the seeds, were this one not fixed; the curves
    # are stored in steps of 1e-4. A curve off by a quarter of a percent would be caught.
    torch.manual_seed(5)
    n, tau = 400_000, 10**logtau
    y = gumbel_softmax(PI.log().expand(n, 3), tau)
    slope = y[:, 0] * (1 - y[:, 0]) / tau
    (exact,) = views("view.exact", [logtau])
    slack = 6 * y.std(0) / math.sqrt(n) + 1e-4
    assert ((y.mean(0) - torch.tensor(exact["means"])).abs() < slack).all()
    assert abs(slope.mean() - exact["slope"]) < 6 * slope.std() / math.sqrt(n) + 1e-4
    squares = slope.square()
    second = exact["slope"] ** 2 + exact["deviation"] ** 2
    assert abs(squares.mean() - second) < 6 * squares.std() / math.sqrt(n) + 3e-4


def test_the_exact_gradient_is_the_slope_of_the_exact_mean():
    """∂E[y₁]/∂logit₁, from the means at neighboring π by an integral of another kind."""
    # At τ = 1 a sample is 1/T normalized, with exponential times T of rates π. E[y₁] is an integral
    # over u = T₁/T₂ and v = T₁/T₃, here by Gauss-Legendre in their logistic transforms.
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
    p = (nodes + 1) / 2

    def mean(logits):
        rates = logits.softmax(-1)
        u, v = (p / (1 - p))[:, None], p / (1 - p)
        jacobian = (weights / 2 / (1 - p) ** 2)[:, None] * (weights / 2 / (1 - p) ** 2)
        # The density of u and v: T₂ = T₁/u, T₃ = T₁/v.
        density = 2 * rates.prod() / (u * v) ** 2 / (rates[0] + rates[1] / u + rates[2] / v) ** 3
        return (density * jacobian / (1 + u + v)).sum()

    logits = PI.log().requires_grad_()
    value = mean(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    (exact,) = views("view.exact", [0.0])
    assert exact["means"][0] == pytest.approx(value.item(), abs=6e-5)
    assert exact["slope"] == pytest.approx(gradient[0].item(), abs=6e-5)


def test_what_the_words_and_the_docstring_state():
    (start,) = views("view.exact.means", [0.0])
    assert [f"{m:.2f}" for m in start] == ["0.52", "0.33", "0.15"]
    explorer = simplex()
    explorer.state.update(guess="none", seen="yes")
    story = run_javascript(explorer, "widget.spec.story(widget.spec.model(state))")
    assert "(0.52, 0.33, 0.15) at τ = 1" in story and explorer.claim in story
    for logtau in (0.0, -0.3, -0.7):
        z = (PI.log() + explorer.noise) / 10**logtau
        (exact,) = views("view.exact.means", [logtau])
        assert (z.softmax(-1).mean(0) - torch.tensor(exact)).abs().max() < 0.013
    # "the mean nears π, and the gradient spreads ever wider", all the way down
    rows = views("[view.exact.means, view.exact.slope, view.exact.deviation]")
    off = [(torch.tensor(means) - PI).abs().max() for means, _, _ in rows]
    assert sorted(off) == off and off[0] < 1e-3
    deviations = [deviation for *_, deviation in rows]
    assert sorted(deviations, reverse=True) == deviations
    assert rows[0][1] == pytest.approx(0.24, abs=5e-4)


def test_goal_is_where_bias_and_chance_balance():
    done = views("widget.spec.goal(view).done")
    error = views("view.error")
    assert [logtau for logtau, reached in zip(GRID, done, strict=True) if reached] == [-0.4, -0.35]
    assert min(error) == error[GRID.index(-0.35)]
    for logtau in (-0.35, 0.0):
        (exact,) = views("view.exact", [logtau])
        want = math.sqrt((exact["slope"] - 0.24) ** 2 + exact["deviation"] ** 2 / 60)
        assert error[GRID.index(logtau)] == pytest.approx(want, rel=1e-12)


def test_nothing_gives_the_answer_away_before_it_is_seen():
    explorer = simplex()
    shown = """((view) => [widget.spec.draw(view, widget.spec.layout({width: 800, font: 14}, view)),
        widget.spec.story(view), Boolean(widget.spec.goal(view)),
        widget.spec.ask.verdict({...view, state: {...state, guess: "few"}}),
        widget.spec.controls.filter((c) => !c.show || c.show(view)).length])(
        widget.spec.model(state))"""
    picture, story, goal, verdict, controls = run_javascript(explorer, shown)
    assert picture.count('class="red thick"') == 0 and "Predict first." in picture
    assert (story, goal, controls) == ("", False, 1) and "Seen" not in verdict
    explorer.state.update(guess="few", logtau=-0.95)
    moved = "(() => { widget.spec.moved(state, 'logtau'); return state.seen; })()"
    assert run_javascript(explorer, moved) == "no"
    explorer.state.update(logtau=-1.0)
    assert run_javascript(explorer, moved) == "yes"
    explorer.state.update(seen="yes")
    picture, story, goal, verdict, controls = run_javascript(explorer, shown)
    assert picture.count('class="red thick"') == 1
    assert goal and controls == 2 and "Seen: none." in verdict


@pytest.mark.parametrize("seed", [-1, 2**31, 1.0])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        simplex(seed)
