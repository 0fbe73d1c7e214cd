"""Stored results: untouched, made by the script beside them, and made again when run."""

import base64
import copy
import json
import math
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from reparam import long_runs
from reparam.data import load_digits
from reparam.long_runs import (
    blocked_encoder,
    codes_on_digits,
    doubly_reparameterized,
    estimators_in_a_vae,
    estimators_on_digits,
    flow_costs,
    flows_on_digits,
    flows_on_energies,
    implicit_gradients,
    latent_plane,
    load,
    posteriors_on_digits,
    vae_seeds,
    write,
)
from reparam.vae import log_likelihood

FOLDER = Path(long_runs.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def tolerance(values: list[float]) -> float:
    """How far one more run may fall from the mean of these: 1e-7 false alarms, if Gaussian."""
    n = len(values)
    quantile = scipy.stats.t(n - 1).isf(0.5e-7)
    return quantile * statistics.stdev(values) * math.sqrt(1 + 1 / n)


@pytest.fixture
def folder(tmp_path):
    """A copy of the long runs that a test may damage."""
    for path in [*FOLDER.glob("*.py"), *FOLDER.glob("*.json")]:
        shutil.copy(path, tmp_path)
    return tmp_path


# Loading and writing


def test_there_are_runs_and_every_script_has_its_data():
    scripts = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    assert scripts == NAMES and {"vae_seeds", "blocked_encoder"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_committed_run_verifies(name):
    assert load(name)
    record = json.loads((FOLDER / f"{name}.json").read_text())
    assert record["versions"].keys() == {"python", "torch", "numpy", "scikit-learn"}
    assert record["seeds"]


def change_a_number(data) -> bool:
    """Change the first number in nested lists and dicts, and say whether there was one."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, int | float):
            data[key] += 1e-4
            return True
        if isinstance(value, list | dict) and change_a_number(value):
            return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_one_changed_digit_is_found(name, folder):
    path = folder / f"{name}.json"
    record = json.loads(path.read_text())
    change_a_number(record["data"])
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"checksum.*python -m reparam.long_runs.{name}"):
        load(name, folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_script_is_found(name, folder):
    script = folder / f"{name}.py"
    script.write_text(script.read_text() + "\nSEEDS = [17]\n")
    with pytest.raises(ValueError, match=rf"{name}.py changed.*python -m"):
        load(name, folder)


def test_reformatted_data_and_other_line_ends_are_the_same_data(folder):
    path, script = folder / "vae_seeds.json", folder / "vae_seeds.py"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    script.write_bytes(script.read_bytes().replace(b"\n", b"\r\n"))
    assert load("vae_seeds", folder) == load("vae_seeds")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"data": {}}', "null"])
def test_a_damaged_file_is_one_clear_error(content, folder):
    (folder / "vae_seeds.json").write_text(content)
    with pytest.raises(ValueError, match="not a record of a long run"):
        load("vae_seeds", folder)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"'nope'.*blocked_encoder.*vae_seeds"):
        load("nope")


def test_what_is_written_is_what_is_loaded(tmp_path):
    (tmp_path / "tiny.py").write_text("print(1)\n")
    path = write("tiny", {"a": [1, 2.5, "x"]}, [0], tmp_path)
    assert load("tiny", tmp_path) == {"a": [1, 2.5, "x"]}
    assert [p.name for p in tmp_path.iterdir() if p != path] == ["tiny.py"]


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.ones(2)])
def test_what_json_cannot_hold_is_refused_and_the_old_file_kept(value, folder):
    before = (folder / "vae_seeds.json").read_text()
    with pytest.raises(ValueError, match="finite numbers"):
        write("vae_seeds", {"a": value}, [0], folder)
    assert (folder / "vae_seeds.json").read_text() == before


def test_writing_needs_the_script(tmp_path):
    with pytest.raises(FileNotFoundError, match="script"):
        write("tiny", {}, [0], tmp_path)


# What is stored is what the scripts give


def test_the_summary_of_the_vae_is_that_of_its_runs():
    data = load("vae_seeds")
    elbos = torch.tensor(data["test_elbo"], dtype=torch.float64)
    assert len(elbos) == len(vae_seeds.SEEDS) >= 10
    assert data["test_elbo_mean"] == pytest.approx(elbos.mean().item())
    error = elbos.std().item() / len(elbos) ** 0.5
    assert data["test_elbo_standard_error"] == pytest.approx(error)
    for key in ("train_curves", "held_out_curves"):
        assert torch.tensor(data[key]).shape == (len(elbos), len(data["curve_epochs"]))


def test_a_full_run_of_the_vae_agrees_with_the_stored_ones():
    """One seed, all epochs. A VAE with half its KL, or a latent variable less, is nats away."""
    data, fresh = load("vae_seeds"), vae_seeds.run(seed=3)
    assert tolerance(data["test_elbo"]) < 0.7  # nats: tight enough to mean something
    assert abs(fresh["test_elbo"] - data["test_elbo_mean"]) < tolerance(data["test_elbo"])
    assert abs(fresh["kl"] - statistics.mean(data["kl"])) < tolerance(data["kl"])
    assert max(data["seconds"]) < 30 and fresh["seconds"] < 30


def test_a_short_run_follows_the_stored_learning_curves():
    """Ten epochs, as the notebook runs them."""
    data, fresh = load("vae_seeds"), vae_seeds.run(seed=20, epochs=10)
    points = len(fresh["train_curve"])
    assert data["curve_epochs"][points - 1] == 10
    for key in ("train_curve", "held_out_curve"):
        stored = [curve[points - 1] for curve in data[f"{key}s"]]
        assert abs(fresh[key][-1] - statistics.mean(stored)) < tolerance(stored)


@pytest.mark.parametrize("variant", blocked_encoder.VARIANTS)
def test_a_short_run_of_the_blocked_encoder_agrees(variant):
    """Thirty epochs: the encoder stays exactly, or collapses, or learns."""
    stored, fresh = load("blocked_encoder")[variant], blocked_encoder.run(variant, 9, epochs=30)
    assert len(stored["encoder_moved"]) == len(blocked_encoder.SEEDS) >= 5
    if variant == "blocked, no KL":
        assert fresh["encoder_moved"] == 0 and not any(stored["encoder_moved"])
    elif variant == "blocked, with KL":
        # With a blocked sample the KL can only fall: 100 epochs end below 30, both near 0.
        assert max(stored["test_kl"]) < 2e-4 and fresh["test_kl"] < 5e-3
        assert fresh["encoder_moved"] > 1 and min(stored["encoder_moved"]) > 1
    else:
        assert min(stored["test_kl"]) > 5 and fresh["test_kl"] > 5
        assert (
            fresh["test_elbo"] > max(load("blocked_encoder")["blocked, with KL"]["test_elbo"]) + 4
        )


def test_the_two_experiments_tell_the_same_story():
    """Same seeds, same model, trained with and without validation: the same numbers."""
    free = load("blocked_encoder")["reparameterized"]["test_elbo"]
    assert free == pytest.approx(load("vae_seeds")["test_elbo"][: len(free)], abs=1e-3)


# Chapter 3: gradients in a VAE

ENCODER = estimators_in_a_vae.LAYERS[:3]


def cells(key: str):
    """Every stored number of one kind, by epochs, estimator and layer."""
    for epochs, by_name in load("estimators_in_a_vae").items():
        for name, by_layer in by_name.items():
            for layer, kinds in by_layer.items():
                yield epochs, name, layer, kinds[key]


def test_the_gradients_of_all_estimators_have_one_expectation():
    """The squared distance of two means, in units of what chance gives: 1 if neither is biased."""
    count = 0
    for _, name, _, stored in cells("distance"):
        count += 1
        if name == "pathwise":
            assert stored["mean"] == 0
        else:
            assert abs(stored["mean"] - 1) < 0.5
    assert count == 3 * len(estimators_in_a_vae.ESTIMATORS) * len(estimators_in_a_vae.LAYERS)


def test_the_summaries_are_those_of_the_seeds():
    for key in ("variance", "variance_times_evaluations", "signal_to_noise"):
        for *_, stored in cells(key):
            seeds = stored["seeds"]
            assert len(seeds) == len(estimators_in_a_vae.SEEDS)
            assert stored["mean"] == pytest.approx(statistics.mean(seeds), rel=1e-4)
            error = statistics.stdev(seeds) / len(seeds) ** 0.5
            assert stored["standard_error"] == pytest.approx(error, rel=1e-3)
    for (*place, variance), (*same, product) in zip(
        cells("variance"), cells("variance_times_evaluations"), strict=True
    ):
        assert place == same
        runs = estimators_in_a_vae.ESTIMATORS[place[1]][1]
        assert product["mean"] == pytest.approx(runs * variance["mean"], rel=1e-4)


def test_what_chapter_3_says_of_the_gradients_in_a_vae():
    variance = {tuple(place): stored["mean"] for *place, stored in cells("variance")}
    for layer in ENCODER:
        fresh, trained = "0 epochs", "100 epochs"
        assert variance[fresh, "score function", layer] > 1e4 * variance[fresh, "pathwise", layer]
        assert (
            variance[trained, "score function", layer] > 100 * variance[trained, "pathwise", layer]
        )
        # Sticking the landing: a third of the variance where the posterior has been learned.
        landing = variance[trained, "sticking the landing", layer]
        assert landing < 0.4 * variance[trained, "pathwise", layer]
        assert landing < 0.4 * variance[trained, "pathwise, KL sampled", layer]
    for layer in estimators_in_a_vae.LAYERS[3:]:  # the decoder's gradient is the same in all
        for epochs in ("0 epochs", "10 epochs", "100 epochs"):
            pathwise = variance[epochs, "pathwise", layer]
            for name, (_, runs) in estimators_in_a_vae.ESTIMATORS.items():
                assert variance[epochs, name, layer] * runs == pytest.approx(pathwise, rel=0.1)


def test_a_short_measurement_of_the_gradients_agrees():
    """Another seed, 100 replicates. Variances within a factor of two; estimators differ by more."""
    fresh = estimators_in_a_vae.run(seed=20, epochs=10, replicates=100)
    stored = load("estimators_in_a_vae")["10 epochs"]
    for name, by_layer in fresh.items():
        for layer, kinds in by_layer.items():
            ratio = kinds["variance"] / stored[name][layer]["variance"]["mean"]
            assert 0.5 < ratio < 2, (name, layer)
            ratio = kinds["signal_to_noise"] / stored[name][layer]["signal_to_noise"]["mean"]
            assert 0.5 < ratio < 2, (name, layer)


# Chapter 7: every estimator on the digits


def test_the_race_is_complete_and_its_summaries_are_those_of_its_runs():
    data = load("estimators_on_digits")
    seeds = len(estimators_on_digits.SEEDS)
    assert data["cpu_seconds"] == estimators_on_digits.CPU_SECONDS and seeds >= 4
    assert data["estimators"].keys() == estimators_on_digits.ESTIMATORS.keys()
    for name, one in data["estimators"].items():
        assert torch.tensor(one["curves"]).shape == (seeds, len(data["cpu_seconds"]))
        assert len(one["steps"]) == len(one["early_elbo"]) == seeds and min(one["steps"]) > 500
        assert one["test_elbo_mean"] == pytest.approx(statistics.mean(one["test_elbo"]))
        error = statistics.stdev(one["test_elbo"]) / seeds**0.5
        assert one["test_elbo_standard_error"] == pytest.approx(error)
        grid = dict(
            zip(one["learning_rates"], one["validation_elbo_by_learning_rate"], strict=True)
        )
        assert one["learning_rate"] == max(grid, key=grid.get)
        assert one["num_samples"] == estimators_on_digits.ESTIMATORS[name][1]


@pytest.mark.parametrize(
    ("better", "worse", "nats"),
    [
        ("leave-one-out", "score function", 3.0),
        ("moving average", "score function", 2.0),
        ("leave-one-out", "SPSA", 3.0),
        ("Gumbel-Softmax, annealed", "Gumbel-Softmax", 1.0),
        ("ReinMax", "straight-through", 0.8),
        ("DisARM", "ARM", 0.0),
        ("REBAR", "straight-through", 0.5),
    ],
)
def test_what_chapter_7_says_of_the_race(better, worse, nats):
    """With every seed of the better one above every seed of the worse one."""
    data = load("estimators_on_digits")["estimators"]
    assert data[better]["test_elbo_mean"] > data[worse]["test_elbo_mean"] + nats
    assert min(data[better]["test_elbo"]) > max(data[worse]["test_elbo"])


@pytest.mark.parametrize("name", ["leave-one-out", "measure-valued", "RELAX", "SPSA"])
def test_the_first_steps_of_the_race_agree(name):
    """A hundred steps with another seed; before the first one the ELBO is about -44.5."""
    one = load("estimators_on_digits")["estimators"][name]
    elbo = estimators_on_digits.after(
        estimators_on_digits.EARLY_STEPS, name, 20, one["learning_rate"]
    )
    spread = statistics.stdev(one["early_elbo"])
    assert abs(elbo - statistics.mean(one["early_elbo"])) < max(0.5, 6 * spread)


def test_a_short_race_stops_in_time():
    result = estimators_on_digits.run("ReinMax", seed=20, learning_rate=2e-3, seconds=0.4)
    assert len(result["curve"]) == 3 and result["steps"] > 5
    assert -30 < result["test_elbo"] < -20


# Chapter 6: flows on the published energies


def test_the_energies_are_those_of_the_paper():
    """Table 1 of Rezende and Mohamed (2015), typed out once more; the wall is beyond |z_1| = 4."""
    z = np.random.default_rng(0).uniform([-4, -3], [4, 3], (500, 2))
    z1, z2 = z.T
    w1, w2 = np.sin(2 * np.pi * z1 / 4), 3 * np.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)
    w3 = 3 / (1 + np.exp(-(z1 - 1) / 0.3))

    def bell(x, width):
        return np.exp(-0.5 * (x / width) ** 2)

    expected = {
        "U1": 0.5 * ((np.hypot(z1, z2) - 2) / 0.4) ** 2
        - np.log(bell(z1 - 2, 0.6) + bell(z1 + 2, 0.6)),
        "U2": 0.5 * ((z2 - w1) / 0.4) ** 2,
        "U3": -np.log(bell(z2 - w1, 0.35) + bell(z2 - w1 + w2, 0.35)),
        "U4": -np.log(bell(z2 - w1, 0.4) + bell(z2 - w1 + w3, 0.35)),
    }
    assert expected.keys() == flows_on_energies.ENERGIES.keys()
    for name, energy in flows_on_energies.ENERGIES.items():
        np.testing.assert_allclose(energy(torch.from_numpy(z)).numpy(), expected[name], rtol=1e-9)
    beyond = torch.tensor([[5.0, math.sin(2.5 * math.pi)]], dtype=torch.float64)
    assert flows_on_energies.wave(beyond).item() == pytest.approx(0.5 * (1 / 0.5) ** 2)


def test_the_partition_functions():
    """In closed form where z_2 given z_1 is Gaussian, and for U1 by SciPy in polar coordinates."""
    stored = load("flows_on_energies")["log_partition"]
    along = 8 + 0.5 * math.sqrt(2 * math.pi)  # of exp(-wall)
    for name, width in (("U2", 0.4), ("U3", 0.35 + 0.35), ("U4", 0.4 + 0.35)):
        assert stored[name] == pytest.approx(math.log(along * width * math.sqrt(2 * math.pi)))

    def ring(angle, r):
        ends = sum(math.exp(-0.5 * ((r * math.cos(angle) - end) / 0.6) ** 2) for end in (2, -2))
        return r * math.exp(-0.5 * ((r - 2) / 0.4) ** 2) * ends

    integral, _ = scipy.integrate.dblquad(ring, 0, 6, 0, 2 * math.pi)
    assert stored["U1"] == pytest.approx(math.log(integral), abs=1e-6)


def test_the_exact_kl_of_a_gaussian_is_the_closed_form():
    model = flows_on_energies.Approximation([])
    with torch.no_grad():
        model.mu.copy_(torch.tensor([0.5, -1.0]))
        model.log_sigma.copy_(torch.tensor([0.3, -0.7]))
    mu, sigma = model.mu.double(), model.log_sigma.double().exp()
    expected = (mu**2 + sigma**2 - 1 - 2 * sigma.log()).sum() / 2
    kl = flows_on_energies.exact_kl(model, lambda z: z.square().sum(-1) / 2)
    assert kl == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("family", "error"), [("planar, 2", 1e-6), ("spline, 4", 2e-4)])
def test_the_exact_kl_is_the_same_over_the_samples_and_over_their_noise(family, error):
    """By log_prob on a grid of z, which inverts the flows, against the sum over the noise.

    A density made of splines has kinks at their knots, where sums over a grid are less exact.
    """
    models = flows_on_energies.fit(family, ["U1"], [7], steps=60)["U1"]
    z, cell = flows_on_energies.grid(8.0, 601)
    with torch.no_grad():
        log_q = copy.deepcopy(models[0]).double().posterior().log_prob(z)
        q = log_q.exp() * cell
        kl = (q * (log_q + flows_on_energies.ring(z))).sum().item()
    kl += load("flows_on_energies")["log_partition"]["U1"]
    assert q.sum().item() == pytest.approx(1, abs=error)
    over_noise = flows_on_energies.exact_kl(models[0], flows_on_energies.ring)
    assert over_noise == pytest.approx(kl, abs=error)


def test_the_fits_are_complete_and_their_summaries_are_those_of_the_seeds():
    fits = load("flows_on_energies")["fits"]
    assert fits.keys() == flows_on_energies.ENERGIES.keys()
    for by_family in fits.values():
        assert list(by_family) == flows_on_energies.FITTED
        for one in by_family.values():
            assert len(one["kl"]) == len(flows_on_energies.SEEDS) >= 5 and min(one["kl"]) > 0
            assert one["mean"] == pytest.approx(statistics.mean(one["kl"]), abs=1e-4)
            error = statistics.stdev(one["kl"]) / len(one["kl"]) ** 0.5
            assert one["standard_error"] == pytest.approx(error, abs=2e-4)
            assert one["grid_error"] < 5e-3  # of the coarser grid
            picture = flows_on_energies.density(one["picture"])
            assert picture.shape == (flows_on_energies.PIXELS, flows_on_energies.PIXELS)
            assert picture.max() == 1 and picture.min() == 0


def test_what_chapter_6_says_of_the_fits():
    fits = load("flows_on_energies")["fits"]
    for by_family in fits.values():
        kl = {family: one["mean"] for family, one in by_family.items()}
        assert kl["Gaussian"] > kl["planar, 2"] > kl["planar, 8"] > kl["planar, 32"]


def test_a_short_fit_agrees():
    """Between the full fits with eight and with two flows, as the stored short ones are."""
    data = load("flows_on_energies")
    fresh = flows_on_energies.fit(
        flows_on_energies.SHORT_FAMILY, ["U1"], [20], flows_on_energies.SHORT_STEPS
    )["U1"]
    kl = flows_on_energies.exact_kl(fresh[0], flows_on_energies.ring, points=401)
    full = data["fits"]["U1"]
    for one in (kl, *data["short"]["U1"]):
        assert max(full["planar, 8"]["kl"]) < one < min(full["planar, 2"]["kl"])


def test_the_wrong_prior_makes_the_objective_negative_and_the_kl_huge():
    """A KL is never negative: the objective with the prior at z_0 is none."""
    stored = load("flows_on_energies")["collapse"]
    assert max(stored["z_0"]["objective"]) < -4 and min(stored["z_0"]["kl"]) > 100
    assert max(stored["z_K"]["kl"]) < 0.01
    assert stored["z_K"]["objective"] == pytest.approx(stored["z_K"]["kl"], abs=2e-4)
    short = flows_on_energies.collapse("z_0", [20], steps=300)
    assert short["objective"][0] < -0.5 and short["kl"][0] > 1


# Chapter 6: flow posteriors on the digits


def test_the_posteriors_on_the_digits_are_complete_and_their_gains_are_paired():
    data = load("flows_on_digits")
    assert list(data["posteriors"]) == list(flows_on_digits.POSTERIORS)
    gaussian = data["posteriors"]["Gaussian"]
    for one in data["posteriors"].values():
        assert len(one["elbo"]) == len(flows_on_digits.SEEDS) >= 5
        for key in ("elbo", "log_likelihood"):
            gains = [a - b for a, b in zip(one[key], gaussian[key], strict=True)]
            assert one[f"{key}_gain_mean"] == pytest.approx(statistics.mean(gains), abs=2e-4)
            error = statistics.stdev(gains) / len(gains) ** 0.5
            assert one[f"{key}_gain_standard_error"] == pytest.approx(error, abs=2e-4)
        # The bound with 500 samples is above the one with a single sample.
        assert all(a > b for a, b in zip(one["log_likelihood"], one["elbo"], strict=True))
    assert list(data["betas"]) == [f"{beta:g}" for beta in flows_on_digits.BETAS]


def test_the_gaussian_posterior_is_that_of_chapter_2():
    """Same seeds, same model, same epochs."""
    stored = load("flows_on_digits")["posteriors"]["Gaussian"]["elbo"]
    assert stored == pytest.approx(load("vae_seeds")["test_elbo"][: len(stored)], abs=0.1)


@pytest.mark.parametrize("name", flows_on_digits.SHORT_POSTERIORS)
def test_a_short_run_on_the_digits_agrees(name):
    """Ten epochs. A nat is five standard deviations between seeds; half the epochs cost two."""
    stored = load("flows_on_digits")["short"][name]
    fresh = flows_on_digits.run(name, seed=20, epochs=flows_on_digits.SHORT_EPOCHS)
    for key in ("elbo", "log_likelihood", "kl"):
        assert statistics.stdev(stored[key]) < 1 / 5
        assert abs(fresh[key] - statistics.mean(stored[key])) < 1


def test_what_chapter_6_says_of_the_gains():
    """Bounds are tighter by up to a fifth of a nat; the likelihood hardly changes."""
    posteriors = load("flows_on_digits")["posteriors"]
    for name in ("planar", "affine coupling, amortized", "inverse autoregressive, amortized"):
        one = posteriors[name]
        assert 0.1 < one["elbo_gain_mean"] < 0.3
        assert one["elbo_gain_mean"] > 4 * one["elbo_gain_standard_error"]
    for one in posteriors.values():
        assert abs(one["log_likelihood_gain_mean"]) < 0.1
    t = scipy.stats.t(len(flows_on_digits.SEEDS) - 1).ppf(0.975)
    with_zero = {
        name
        for name, row in posteriors.items()
        if abs(row["elbo_gain_mean"]) <= t * row["elbo_gain_standard_error"]
    }
    assert with_zero == {"Gaussian", "Sylvester, amortized", "planar, amortized"}


# Chapter 6: what flows cost


def test_the_costs_are_complete_and_of_positive_time():
    data = load("flow_costs")
    assert list(data["times"]) == [str(dim) for dim in flow_costs.DIMS]
    for dim, by_family in data["times"].items():
        assert list(by_family) == list(flow_costs.FAMILIES)
        for family, one in by_family.items():
            assert one["passes"] == flow_costs.FAMILIES[family][1](int(dim))
            for task in flow_costs.TASKS:
                assert 0 < one["least"][task] <= one["median"][task]


def test_what_chapter_6_says_of_the_costs():
    """The slow direction of an autoregressive flow, and that the other one's is the mirror."""
    for dim, by_family in load("flow_costs")["times"].items():
        masked, inverse = by_family["masked autoregressive"], by_family["inverse autoregressive"]
        assert masked["passes"] == inverse["passes"][::-1]
        if int(dim) == 32:
            assert masked["least"]["sample"] > 3 * masked["least"]["density"]
            assert inverse["least"]["density"] > 3 * inverse["least"]["sample"]


@pytest.mark.parametrize("family", flow_costs.FAMILIES)
def test_one_pass_is_one_call_of_each_network(family):
    """Where the table says D passes, the network is walked through variable by variable."""
    for way, passes in zip(("forward", "inverse"), flow_costs.FAMILIES[family][1](5), strict=True):
        stack, calls = flow_costs.flows(family, 5), []
        for flow in stack.flows:
            if hasattr(flow, "network"):
                flow.network.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with torch.no_grad():
            getattr(stack, way)(torch.randn(3, 5))
        assert len(calls) == (flow_costs.LAYERS * passes if passes < 5 else 0)


def test_costs_can_be_measured_in_a_few_rounds():
    result = flow_costs.measure(2, rounds=1)
    assert list(result) == list(flow_costs.FAMILIES)


# Chapter 5: how right implicit gradients are


def largest(name: str, kind: str) -> dict[str, float]:
    rows = load("implicit_gradients")["accuracy"][name][kind]
    return {row["parameter"]: row["largest"] for row in rows}


def test_every_law_is_measured_in_both_types():
    data = load("implicit_gradients")
    assert data["quantiles"] == implicit_gradients.QUANTILES
    assert list(data["accuracy"]) == list(implicit_gradients.LAWS)
    for name, (_, parameters) in implicit_gradients.LAWS.items():
        assert list(data["accuracy"][name]) == ["float64", "float32"]
        for rows in data["accuracy"][name].values():
            assert [row["parameter"] for row in rows] == [str(p) for p in parameters]
            for row in rows:
                assert row["count"] >= 6 and 0 < row["median"] <= row["largest"] < 1


def test_what_chapter_5_says_of_implicit_gradients():
    """Those of torch keep three digits, in float64 as in float32; ours keep what the type has."""
    for name in ("torch Gamma", "torch Beta", "torch StudentT"):
        in_64, in_32 = (largest(name, kind) for kind in ("float64", "float32"))
        assert 5e-4 < max(in_64.values()) < 0.05
        assert max(in_32.values()) > 0.9 * max(in_64.values())
    assert max(largest("torch Gamma", "float64").items(), key=lambda item: item[1])[0] == "0.01"
    for name in ("reparam VonMises", "reparam TruncatedNormal", "reparam Mixture"):
        assert max(largest(name, "float64").values()) < 1e-12
        assert max(largest(name, "float32").values()) < 1e-5


def test_what_chapter_5_says_of_samples_at_the_floor():
    """Their share is the probability of what float32 has no numbers for, by SciPy."""
    floor = load("implicit_gradients")["floor"]
    for row in [*floor["float32"], *floor["float64"]]:
        error = math.sqrt(row["gamma_expected"] * (1 - row["gamma_expected"]) / 100_000)
        assert abs(row["gamma"] - row["gamma_expected"]) < 6 * error + 1e-9
    by_concentration = {row["concentration"]: row for row in floor["float32"]}
    assert by_concentration[0.01]["gamma"] == pytest.approx(0.42, abs=0.01)
    for row in floor["float32"]:
        fresh = implicit_gradients.share_at_the_floor(row["concentration"], torch.float32)
        assert fresh["gamma"] == pytest.approx(row["gamma"], abs=0.01)


def test_torch_refuses_second_derivatives_in_its_own_words():
    data = load("implicit_gradients")["second_derivative"]
    assert "_standard_gamma_grad" in data["Gamma"] and "twice" in data["Dirichlet"]
    gamma = implicit_gradients.second_derivative(lambda c: torch.distributions.Gamma(c, 1.0))
    assert gamma == data["Gamma"]


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("torch Gamma", 0.3),
        ("torch Gamma", 10.0),
        ("torch StudentT", 100.0),
        ("reparam VonMises", 2.0),
        ("reparam TruncatedNormal", (1e4, math.inf)),
        ("reparam Mixture", 5.0),
    ],
)
def test_a_short_measurement_of_the_accuracy_agrees(name, parameter):
    fresh = implicit_gradients.accuracy(name, torch.float64, parameter)
    rows = load("implicit_gradients")["accuracy"][name]["float64"]
    stored = next(row for row in rows if row["parameter"] == str(parameter))
    if name.startswith("torch"):
        assert fresh["largest"] == pytest.approx(stored["largest"], rel=1e-3)
    else:  # rounding, which differs between processors
        assert fresh["largest"] < 10 * stored["largest"]


# Chapter 8: the latent plane


def test_the_rounded_weights_are_those_trained_to_8_bits():
    data = load("latent_plane")
    trained, rounded = latent_plane.as_trained(data), latent_plane.as_rounded(data)
    assert {key: latent_plane.packed(trained)[key] for key in ("scales", "weights", "trained")} == {
        key: data[key] for key in ("scales", "weights", "trained")
    }
    pairs = zip(trained.parameters(), rounded.parameters(), data["scales"], strict=True)
    for weights, coarse, scale in pairs:
        assert (weights - coarse).abs().max() < 0.52 * scale  # the scale itself has four digits
    cost = latent_plane.largest_difference(trained, rounded)
    assert cost == pytest.approx(data["largest_difference"], abs=1e-5)
    assert 0 < cost < 0.1
    elbo = data["test_elbo"]
    assert abs(elbo["as trained"] - elbo["as rounded"]) < 0.05  # nats


def test_the_plane_has_some_digits_of_each_class_and_one_posterior():
    data = load("latent_plane")
    labels = "".join(str(c) * latent_plane.MARKED for c in range(10))
    assert data["labels"] == labels
    codes = np.frombuffer(base64.b64decode(data["codes"]), "i1")
    assert codes.shape == (2 * len(labels),) and abs(codes).max() < 127
    digits = load_digits()
    assert data["shown"]["label"] == digits.test_labels[latent_plane.SHOWN]
    assert [float(p) for p in data["shown"]["x"]] == digits.test[latent_plane.SHOWN].tolist()
    assert 0 < min(data["shown"]["sigma"]) < max(data["shown"]["sigma"]) < 1


def test_a_short_run_of_the_latent_plane_agrees():
    """Ten epochs with another seed; training on ends nats higher, two dimensions or not."""
    data = load("latent_plane")
    fresh = latent_plane.held_out_elbo(latent_plane.train_vae(20, latent_plane.SHORT_EPOCHS))
    stored = data["short_test_elbo"]
    assert len(stored) == len(latent_plane.SHORT_SEEDS) >= 4
    assert abs(fresh - statistics.mean(stored)) < 1.5
    assert data["test_elbo"]["as trained"] > max(stored) + 2


# Chapter 8


def test_the_comparison_of_posteriors_is_whole_and_consistent():
    data, number = load("posteriors_on_digits"), len(posteriors_on_digits.SEEDS)
    rows = data["posteriors"]
    assert list(rows) == [*posteriors_on_digits.POSTERIORS, *posteriors_on_digits.CONTROLS]
    for row in rows.values():
        for criterion, of in row["chosen_by"].items():
            best = posteriors_on_digits.best_rate(row["validation"][criterion])
            assert row["learning_rate"][criterion] == best
            beside = rows["Gaussian"]["chosen_by"][criterion]
            for key in posteriors_on_digits.CRITERIA:
                by_seed = of[key]["by_seed"]
                assert len(by_seed) == number >= 5
                assert of[key]["mean"] == pytest.approx(statistics.mean(by_seed), abs=1e-4)
                seeds = statistics.stdev(by_seed) / number**0.5
                assert of[key]["standard_error_of_seeds"] == pytest.approx(seeds, abs=2e-4)
                assert of[key]["standard_error"] > seeds  # that of the images is in it
                gain = of[key]["mean"] - beside[key]["mean"]
                assert of[f"{key}_gain"]["mean"] == pytest.approx(gain, abs=3e-4)
            assert of["log_likelihood"]["mean"] >= of["elbo"]["mean"] - 1e-3
            nearer = of["elbo_gain"]["mean"] - of["log_likelihood_gain"]["mean"]
            assert of["tightness_gain"]["mean"] == pytest.approx(nearer, abs=3e-4)
    assert set(data["pictures"]) == set(posteriors_on_digits.POSTERIORS)
    for shown in data["pictures"].values():
        assert len(shown["samples"]) == posteriors_on_digits.PICTURES
    for name in posteriors_on_digits.DISCRETE:
        of = rows[name]["chosen_by"]["log_likelihood"]
        assert of["exact"]["mean"] > of["log_likelihood"]["mean"] - 0.01


def test_what_chapter_8_says_of_the_gains():
    rows = load("posteriors_on_digits")["posteriors"]
    t = scipy.stats.t(len(posteriors_on_digits.SEEDS) - 1).ppf(0.975)

    def excludes_zero(gain):
        return abs(gain["mean"]) > t * gain["standard_error"]

    def gain(name, key):
        return rows[name]["chosen_by"][key][f"{key}_gain"]

    flows = ("planar", "radial", "inverse autoregressive", "spline")
    assert sum(excludes_zero(gain(name, "elbo")) for name in flows) == 2
    assert not excludes_zero(gain("full covariance", "elbo"))
    for name in ("full covariance", *flows):
        assert gain(name, "log_likelihood")["mean"] < 0
        assert excludes_zero(gain(name, "log_likelihood")) == (name == "planar")
        nearer = rows[name]["chosen_by"]["elbo"]["tightness_gain"]
        assert excludes_zero(nearer) and 0.05 < nearer["mean"] < 0.2
    for key in posteriors_on_digits.CRITERIA:
        assert gain("hybrid", key)["mean"] > 0 and excludes_zero(gain("hybrid", key))
        assert gain("categorical", key)["mean"] < 0 and excludes_zero(gain("categorical", key))
        hybrid, control = (
            rows[name]["chosen_by"][key][key]["by_seed"]
            for name in ("hybrid", "Gaussian, ten samples")
        )
        apart = [one - other for one, other in zip(hybrid, control, strict=True)]
        error = statistics.stdev(apart) / len(apart) ** 0.5
        assert abs(statistics.mean(apart)) < t * error
        assert max(rows["hybrid"]["chosen_by"][key]["kl_of_class"]) < 1e-3
    inside = posteriors_on_digits.LEARNING_RATES[1:-1]
    at_an_end = {
        (name, key)
        for name, row in rows.items()
        for key, rate in row["learning_rate"].items()
        if rate not in inside
    }
    assert at_an_end == {("Gaussian, longer", "elbo")}
    six = [rows[name]["validation"]["log_likelihood"] for name in list(rows)[:6]]
    second, third = (column for column in list(zip(*six, strict=True))[1:3])
    assert max(second) - min(second) < 0.1 and third.index(max(third)) == 0
    assert all(max(grid) == grid[2] for grid in six)
    for name in posteriors_on_digits.CONTROLS:
        assert not excludes_zero(gain(name, "log_likelihood"))
    models = {name: rows[name]["chosen_by"]["log_likelihood"] for name in rows}
    exact = {name: models[name]["exact"]["mean"] for name in posteriors_on_digits.DISCRETE}
    hidden = {name: exact[name] - models[name]["elbo"]["mean"] for name in exact}
    assert hidden["categorical"] > 1 and hidden["quantized"] > 7
    assert exact["quantized"] < exact["categorical"]


def test_what_chapter_8_says_of_training_on_the_bound():
    data = load("doubly_reparameterized")["by_samples"]
    t = scipy.stats.t(len(doubly_reparameterized.SEEDS) - 1).ppf(0.975)
    inside = doubly_reparameterized.LEARNING_RATES[1:-1]
    for samples, row in data.items():
        established = abs(row["gain"]["mean"]) > t * row["gain"]["standard_error"]
        assert established == (samples == "64")
        assert all(row[name]["learning_rate"] in inside for name in ("pathwise", "dreg"))
        assert 1 < row["dreg"]["cpu_seconds"] / row["pathwise"]["cpu_seconds"] < 1.25
    assert data["64"]["gain"]["mean"] < 0
    for samples in ("8", "64"):
        gain = data[samples]["pathwise"]["over_one_sample"]["log_likelihood"]
        assert gain["mean"] > t * gain["standard_error"]


def test_chapter_6_and_8_have_the_same_gaussian_runs():
    of = load("posteriors_on_digits")["posteriors"]["Gaussian"]["chosen_by"]["elbo"]
    here = of["elbo"]["by_seed"]
    there = load("flows_on_digits")["posteriors"]["Gaussian"]["elbo"]
    assert here == pytest.approx(there, abs=0.02)  # trained alike, evaluated alike


@pytest.mark.parametrize("name", posteriors_on_digits.SHORT_POSTERIORS)
def test_a_short_run_of_a_posterior_agrees(name):
    stored = load("posteriors_on_digits")
    rate = stored["posteriors"][name]["learning_rate"]["elbo"]
    fresh = posteriors_on_digits.run(name, 0, rate, posteriors_on_digits.SHORT_EPOCHS)
    gap = fresh["log_likelihood"].mean().item() - stored["short_log_likelihood"][name]
    assert abs(gap) < 0.3  # same seed: only other processors' rounding


def test_the_errors_of_a_mean_over_seeds_and_images():
    """Independent effects of seeds and images, of known sizes, and many repetitions."""
    draws = [
        torch.randn(5, 1) * 0.3 + torch.randn(1, 40) * 2 + 0.1 * torch.randn(5, 40)
        for _ in range(2000)
    ]
    stated = [posteriors_on_digits.with_errors(bounds)["standard_error"] ** 2 for bounds in draws]
    truth = 0.3**2 / 5 + 2**2 / 40
    assert statistics.mean(stated) == pytest.approx(truth, rel=0.05)
    means = torch.stack([bounds.mean() for bounds in draws])
    assert means.var().item() == pytest.approx(truth, rel=0.2)


def test_the_doubly_reparameterized_runs_are_whole_and_learn():
    data = load("doubly_reparameterized")["by_samples"]
    assert list(data) == [str(k) for k in doubly_reparameterized.SAMPLES]
    for row in data.values():
        first, second = (row[name]["log_likelihood"]["mean"] for name in ("pathwise", "dreg"))
        assert row["gain"]["mean"] == pytest.approx(second - first, abs=3e-4)
        for name in doubly_reparameterized.GRADIENTS:
            best = posteriors_on_digits.best_rate(row[name]["validation"])
            assert row[name]["learning_rate"] == best
    digits = load_digits()
    for gradient in doubly_reparameterized.GRADIENTS:
        vae = doubly_reparameterized.trained(gradient, 8, seed=0, learning_rate=2e-3, epochs=3)
        assert log_likelihood(vae, digits.test, 50, progress=False).mean > -25


def test_the_codes_are_whole_and_a_short_run_agrees():
    data = load("codes_on_digits")
    assert list(data["posteriors"]) == list(posteriors_on_digits.POSTERIORS)
    for of in data["posteriors"].values():
        assert len(of["read"]) == len(of["read_from_averages"]) == len(codes_on_digits.SEEDS) >= 5
        assert len(of["plane"]) == codes_on_digits.DRAWN and 0 < of["variance_in_plane"] < 1
    for name in codes_on_digits.SHORT_POSTERIORS:
        new, read, averaged = codes_on_digits.run(name, 0, codes_on_digits.SHORT_EPOCHS)
        assert new.shape[0] == len(load_digits().test)
        assert read == pytest.approx(data["short_read"][name], abs=0.03)
        if name == "quantized":  # nothing to average, but rounding breaks ties
            assert averaged == pytest.approx(read, abs=0.03)
        else:
            assert averaged > read + 0.05


def test_the_reader_of_codes_and_the_plane_on_known_ones():
    corners = torch.eye(3).repeat_interleave(4, 0)
    kinds = torch.arange(3).repeat_interleave(4)
    noise = 0.01 * torch.randn(12, 3)
    assert codes_on_digits.read(corners, kinds, corners + noise, kinds) == 1.0
    assert codes_on_digits.read(corners, kinds, corners + noise, (kinds + 1) % 3) == 0.0
    flat = (torch.randn(50, 2) @ torch.randn(2, 6) + 7).double()
    places, share = codes_on_digits.plane(flat)
    assert share == pytest.approx(1, abs=1e-5)  # two dimensions hold all of it
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(flat, flat))


@pytest.mark.parametrize("name", posteriors_on_digits.POSTERIORS)
def test_a_code_is_what_the_decoder_takes(name):
    vae = posteriors_on_digits.POSTERIORS[name].make()
    z = codes_on_digits.codes(vae, load_digits().test[:5])
    assert z.ndim == 2 and not z.requires_grad
    classes = vae.prior.event_shape if name == "categorical" else ()
    assert vae.decoder(z.unflatten(-1, classes) if classes else z).mean.shape == (5, 64)
