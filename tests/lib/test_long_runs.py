"""Stored results: untouched, made by the script beside them, and made again when run."""

import json
import math
import shutil
import statistics
from pathlib import Path

import pytest
import scipy.stats
import torch

from reparam import long_runs
from reparam.long_runs import (
    blocked_encoder,
    estimators_in_a_vae,
    estimators_on_digits,
    load,
    vae_seeds,
    write,
)

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


@pytest.mark.parametrize("name", NAMES)
def test_one_changed_digit_is_found(name, folder):
    path = folder / f"{name}.json"
    record = json.loads(path.read_text())
    series = record["data"]
    while not isinstance(series, list):
        series = next(iter(series.values()))
    while isinstance(series[0], list):
        series = series[0]
    series[0] += 1e-4
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"checksum.*python -m reparam.long_runs.{name}"):
        load(name, folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_script_is_found(name, folder):
    script = folder / f"{name}.py"
    script.write_text(script.read_text().replace("range(", "range(1 + "))
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
