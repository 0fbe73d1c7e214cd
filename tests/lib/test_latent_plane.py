"""`latent_plane`: the page's decoder and its numbers, run in Node, against torch."""

import json

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from reparam.data import load_digits
from reparam.explorers import latent_plane
from reparam.explorers.build import run_javascript
from reparam.long_runs import load
from reparam.long_runs.latent_plane import SHOWN, STEPS, as_rounded, as_trained

DATA = load("latent_plane")
MU, SIGMA = (torch.tensor(DATA["shown"][key], dtype=torch.float64) for key in ("mu", "sigma"))
X = load_digits().test[SHOWN].double()
#: Places of the sandbox, its corners among them, as (s, mu1, mu2).
PLACES = [(1.0, -0.51, 1.24), (0.0, 0.3, -0.7), (0.4, 2.5, -2.5), (3.0, -2.5, 2.5), (3.0, 0.0, 0.0)]


def views(expression, places=PLACES):
    """The JSON value of an expression in `view`, for each of these places."""
    states = json.dumps([{"s": s, "mu1": mu1, "mu2": mu2} for s, mu1, mu2 in places])
    many = f"""{states}.map((s) => {{
        const view = widget.spec.model({{ ...state, ...s }});
        return {expression};
    }})"""
    return run_javascript(latent_plane(), many)


def posterior(s, mu1, mu2):
    mu = torch.tensor([mu1, mu2], dtype=torch.float64)
    return Independent(Normal(mu, s * SIGMA, validate_args=False), 1)


def prior():
    return Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)


def test_the_image_and_its_posterior_are_those_of_the_run():
    explorer = latent_plane()
    assert [float(pixel) for pixel in explorer.state["x"]] == X.tolist()
    assert explorer.state["posterior"] == {"mu": MU.tolist(), "sigma": SIGMA.tolist()}
    (codes,) = views("view.codes", PLACES[:1])
    assert len(codes) == len(DATA["labels"])
    assert all(-3 < v < 3 and STEPS * v % 1 == 0 for code in codes for v in code)


def test_every_tile_is_the_librarys_decoder_at_its_own_draw():
    explorer, decoder = latent_plane(), as_rounded(DATA).double()
    for place, tiles in zip(PLACES, views("view.tiles"), strict=True):
        q = posterior(*place)
        for eps, tile in zip(explorer.noise, tiles, strict=True):
            z = q.mean + q.stddev * eps
            with torch.no_grad():
                likelihood = decoder(z)
            assert tile["eps"] == eps.tolist()
            assert tile["z"] == pytest.approx(z.tolist(), abs=1e-12)
            assert tile["offset"] == pytest.approx((z - q.mean).tolist(), abs=1e-12)
            # The page's scales are decimal; the library's weights are float32 products of them.
            assert tile["image"] == pytest.approx(likelihood.mean.tolist(), rel=1e-5, abs=1e-6)
            assert tile["fit"] == pytest.approx(likelihood.log_prob(X).item(), rel=1e-5)
            assert tile["ink"] == "".join(str(int(p >= 0.5)) for p in likelihood.mean)


def test_rounding_to_8_bits_costs_what_is_stated():
    trained = as_trained(DATA).double()
    line = [-4 + 0.8 * i for i in range(11)]
    for place, tiles in zip(
        [(0.0, a, b) for a in line for b in line],
        views("view.tiles.slice(0, 1)", [(0.0, a, b) for a in line for b in line]),
        strict=True,
    ):
        with torch.no_grad():
            image = trained(torch.tensor(place[1:], dtype=torch.float64)).mean
        worst = (torch.tensor(tiles[0]["image"], dtype=torch.float64) - image).abs().max()
        assert worst <= DATA["largest_difference"] + 1e-6


def test_the_elbo_of_the_nine_draws_is_the_librarys():
    explorer, decoder = latent_plane(), as_rounded(DATA).double()
    got = views("[view.fit, view.kl, view.elbo, view.encoder.elbo]")
    start = got[0][2]
    for place, (fit, kl, elbo, encoder) in zip(PLACES, got, strict=True):
        q = posterior(*place)
        with torch.no_grad():
            want = decoder(q.mean + q.stddev * explorer.noise).log_prob(X).mean().item()
        assert fit == pytest.approx(want, rel=1e-5)
        assert encoder == pytest.approx(start)
        if place[0] == 0:
            assert kl is None and elbo is None  # infinite
        else:
            assert kl == pytest.approx(kl_divergence(q, prior()).item(), rel=1e-12)
            assert elbo == pytest.approx(fit - kl)


def exact_elbo(decoder, place):
    """Over all draws, by Gauss-Hermite quadrature."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
    grid = torch.stack(torch.meshgrid(nodes, nodes, indexing="xy"), -1)
    q, weights = posterior(*place), weights / weights.sum()
    with torch.no_grad():
        fit = decoder(q.mean + q.stddev * grid).log_prob(X)
    return (weights[:, None] * weights * fit).sum().item() - kl_divergence(q, prior()).item()


def test_the_nine_draws_stand_for_all():
    """The docstring's quarter of a nat; and that the encoder leaves a nat."""
    decoder = as_rounded(DATA).double()
    shifts = (-0.2, 0, 0.2)
    mu1, mu2 = MU.tolist()
    places = [(s, mu1 + a, mu2 + b) for s in (0.5, 1.0, 1.3) for a in shifts for b in shifts]
    exact = [exact_elbo(decoder, place) for place in places]
    nine = views("view.elbo", places)
    assert max(abs(a - b) for a, b in zip(nine, exact, strict=True)) < 0.25
    assert max(exact) - exact_elbo(decoder, (1.0, mu1, mu2)) > 1


def test_at_sigma_0_one_image_is_left_and_they_part_as_it_grows():
    mu = MU.tolist()
    different = views("view.different", [(s, *mu) for s in (0.0, 0.3, 1.0, 2.0, 3.0)])
    assert different[0] == 1 and different == sorted(different) and different[-1] == 9
    inks = views("view.tiles.map((tile) => tile.ink)", [(1.0, *mu)])[0]
    assert views("view.different", [(1.0, *mu)]) == [len(set(inks))]


def test_moving_mu_changes_no_offset():
    offsets = views("view.tiles.map((t) => t.offset)", [(1.5, -0.5, 1.2), (1.5, 2.0, -2.0)])
    assert offsets[0] == offsets[1]


def test_the_tiles_stand_as_their_noise_does():
    noise = latent_plane().noise
    assert noise.shape == (9, 2)
    rows = noise.split(3)
    assert all(bool((row[:, 0].diff() > 0).all()) for row in rows)
    assert min(rows[0][:, 1]) >= max(rows[1][:, 1]) and min(rows[1][:, 1]) >= max(rows[2][:, 1])


def test_the_goal_starts_unreached_and_wants_mu_moved():
    explorer = latent_plane()
    assert run_javascript(explorer, "widget.spec.goal(widget.spec.model(state))") is False
    mu1, mu2 = MU.tolist()
    seen = "widget.spec.goal({ ...view, seen: true }).done"
    assert not any(views(seen, [(s / 10, mu1, mu2) for s in range(31)])), "σ alone is not enough"
    done = views(seen, [(1.0, mu1 - 0.2, mu2 + 0.2), (0.0, mu1 - 0.2, mu2 + 0.2)])
    assert done == [True, False]
    # What is shown, to a tenth of a nat, is what is compared.
    near = [(1.0, mu1 - 0.01 * i, mu2 + 0.01 * i) for i in range(21)]
    shown = views("[Number(view.elbo.toFixed(1)), view.encoder.elbo + 0.5]", near)
    reached = [elbo >= round(goal, 1) for elbo, goal in shown]
    assert views(seen, near) == reached and 0 < sum(reached) < 21


def test_nothing_gives_the_answer_away_before_it_is_seen():
    explorer = latent_plane()
    explorer.state.update(guess="few")
    shown = """((view) => [widget.spec.draw(view, widget.spec.layout({width: 800, font: 14}, view)),
        widget.spec.story(view), widget.spec.goal(view), widget.spec.ask.verdict(view),
        widget.spec.handles(view, widget.spec.layout({width: 800, font: 14}, view)).length,
        widget.spec.controls.filter((c) => !c.show || c.show(view)).length])(
        widget.spec.model(state))"""
    picture, story, goal, verdict, handles, controls = run_javascript(explorer, shown)
    assert "Pull σ to 0" in picture and "ELBO" not in picture
    assert (story, goal, handles, controls) == ("", False, 1, 1) and "Seen" not in verdict
    moved = "(() => { widget.spec.moved(state, 's'); return state.seen; })()"
    explorer.state.update(s=0.1)
    assert run_javascript(explorer, moved) == "no"
    explorer.state.update(s=0)
    assert run_javascript(explorer, moved) == "yes"
    explorer.state.update(seen="yes")
    picture, story, goal, verdict, handles, controls = run_javascript(explorer, shown)
    assert "ELBO −∞" in picture and "KL ∞" in picture and explorer.claim in story
    assert goal and (handles, controls) == (2, 3) and "Seen: one." in verdict


@pytest.mark.parametrize("seed", [-1, 2**31, 1.0])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        latent_plane(seed)
