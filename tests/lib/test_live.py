"""The live experiment without a front end, and in a real kernel."""

import base64
import io
import math

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from torch.distributions import Normal

from reparam.live import try_your_own_f

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def live():
    return try_your_own_f()


def after(live, **values):
    """Set controls as a reader would, and return the experiment's findings."""
    for name, value in {"f": "z**2", "mu": 0.5, "sigma": 1.0, "num_samples": 1, **values}.items():
        getattr(live, name).value = value
    return live._findings


# --- what it finds ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "mu", "sigma", "truth"),
    [
        ("z**2", 0.5, 1.0, 1.0),  # 2μ
        ("torch.sin(3 * z)", 1.0, 0.5, 3 * math.cos(3) * math.exp(-9 / 8)),
        ("torch.exp(z)", -1.0, 0.7, math.exp(-1 + 0.245)),
        ("(z > 0).float()", 0.5, 1.0, math.exp(-1 / 8) / math.sqrt(math.tau)),
        ("(z > 1.5).double() - 3 * (z > -1)", 0.2, 0.4, None),
        ("z.abs()", 0.5, 1.0, math.erf(0.5 / math.sqrt(2))),
        ("torch.floor(10 * z)", 0.5, 1.0, 10.0),
        ("7 + 0 * z", 0.5, 1.0, 0.0),
    ],
)
def test_the_line_is_the_exact_gradient_and_the_score_function_straddles_it(
    live, f, mu, sigma, truth
):
    found = after(live, f=f, mu=mu, sigma=sigma)
    if truth is None:
        density = Normal(mu, sigma).log_prob(torch.tensor([1.5, -1.0])).exp()
        truth = float(density[0] - 3 * density[1])
    assert found.truth == pytest.approx(truth, abs=2e-5)
    score = found.estimates["score function"]
    # 2,000 estimates; six standard errors: a false alarm once in 5e8.
    assert abs(score.mean() - truth) <= 6 * score.std() / math.sqrt(len(score))


@pytest.mark.parametrize("samples", [1, 16])
def test_variances_are_those_of_the_closed_forms(live, samples):
    mu, sigma = 0.5, 1.0
    found = after(live, num_samples=samples)
    # f = z²: pathwise 4σ²/K, score function μ⁴/σ² + 14μ² + 15σ², over K (chapter 3).
    wanted = {"pathwise": 4 * sigma**2, "score function": mu**4 / sigma**2 + 14 * mu**2 + 15}
    for name, value in wanted.items():
        g = found.estimates[name]
        assert g.shape == (2000,)
        spread = ((g - g.mean()) ** 4).mean().sub(g.var() ** 2).div(len(g)).sqrt()
        assert abs(g.var() - value / samples) < 6 * spread


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "The exact gradient is 1. Pathwise: mean 1"),
        ({}, "The pathwise estimates scatter less, by a factor of 4."),
        ({"f": "torch.sin(5 * z)"}, "The score function estimates scatter less"),
        ({"f": "(z > 0).float()"}, "variance 0, biased: off by −0.352. Score function"),
        ({"f": "(z > 0).float()"}, "scatter less, around the wrong value."),
        ({"f": "3 * z"}, "Pathwise: mean 3 (standard error 0), variance 0, no bias to be seen"),
    ],
)
def test_the_sentence_says_bias_and_variance(live, values, words):
    after(live, **values)
    assert words in live.sentence
    assert live.sentence.count("bias") == 2
    assert live.sentence in live._words.value.replace("&#x27;", "'")


def test_a_control_redraws_at_once_with_the_same_noise(live):
    first = after(live).estimates["pathwise"]
    picture = live._picture.value
    again = after(live, sigma=2.0).estimates["pathwise"]
    assert live._picture.value != picture and "<img alt=" in live._picture.value
    # With f = z² an estimate is 2(μ + σε): the same ε on both sides.
    torch.testing.assert_close((again - 1) / 2, first - 1)
    state = torch.get_rng_state()
    after(live, sigma=1.0)
    assert live._picture.value == picture
    assert torch.equal(torch.get_rng_state(), state), "the reader's own random numbers stay"


# --- what a reader may type ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "words"),
    [
        ("", "There is no f yet: type an expression in z"),
        ("z >", "Python cannot read 'z >' (invalid syntax): type one expression"),
        ("import os", "Python cannot read 'import os'"),
        ("x**2", "x**2 raises NameError: name 'x' is not defined. Type an expression"),
        ("torch.sine(z)", "raises AttributeError: module 'torch' has no attribute 'sine'."),
        ("math.sin(z)", "math.sin(z) raises ValueError: only one element"),
        ("3", "f must give one value for each z"),
        ("z.sum()", "f must give one value for each z"),
        ("[z]", "f must give one value for each z"),
        ("z > 0", "f must give real numbers, and z > 0 gave torch.bool: try (z > 0).float()."),
        ("torch.log(z)", "f must be finite wherever z can fall, and torch.log(z) is not at z = −"),
        ("torch.randn_like(z)", "f gives two values at the same z"),
        ("torch.exp(z**2)", "No exact gradient was found for this f"),
        ("<b>", "Python cannot read '<b>'"),
    ],
)
def test_what_cannot_be_used_is_met_with_one_sentence_and_no_picture(live, f, words):
    after(live)
    assert after(live, f=f) is None
    assert words in live.sentence
    assert "Traceback" not in live.sentence and "\n" not in live.sentence
    assert live._picture.value == "", "a picture of the last f would be wrong"
    assert "<b>" not in live._words.value
    bundle = live._repr_mimebundle_()
    assert "image/png" not in bundle and VIEW in bundle
    assert after(live) is not None, "and the next f works again"


def test_an_expression_cannot_change_the_samples(live):
    assert after(live, f="z.mul_(2)").truth == pytest.approx(2.0)
    assert live.sentence.count("no bias to be seen") == 2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"f": torch.sin}, TypeError, "f must be the text of an expression"),
        ({"mu": 4}, ValueError, "mu must lie between -3 and 3, got 4"),
        ({"mu": math.nan}, ValueError, "mu must lie between -3 and 3, got nan"),
        ({"mu": "0"}, TypeError, "mu must be a number, got str"),
        ({"sigma": 0}, ValueError, "sigma must lie between 0.1 and 3, got 0"),
        ({"sigma": True}, TypeError, "sigma must be a number, got bool"),
        ({"num_samples": 65}, ValueError, "num_samples must lie between 1 and 64"),
        ({"num_samples": 1.5}, TypeError, "num_samples must be an int"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1"),
    ],
)
def test_bad_start_values_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        try_your_own_f(**arguments)


# --- what it shows ---------------------------------------------------------------------------


def test_every_control_is_labelled_and_waits_for_the_end_of_a_drag(live):
    for control in (live.f, live.mu, live.sigma, live.num_samples):
        assert control.description and not control.continuous_update


def test_the_bundle_holds_the_widget_a_picture_and_text(live):
    after(live)
    bundle = live._repr_mimebundle_()
    assert set(bundle) == {VIEW, "image/png", "text/plain"}
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width == 1400
    assert bundle == live._repr_mimebundle_(), "the stored notebook must not change by itself"
    # The still says where to run it; the live picture, which is running, does not.
    shown = live._picture.value.split("base64,")[1].split('"')[0]
    assert shown != bundle["image/png"]


def test_in_a_kernel_without_a_front_end_the_cell_runs_and_keeps_a_picture():
    cells = [
        "from reparam.live import try_your_own_f\nlive = try_your_own_f('torch.sin(3 * z)')\nlive",
        "live.f.value = 'torch.relu(z)'\nlive.mu.value = 1.0\nprint(live.sentence)",
        "live.f.value = 'z +'\nprint(live.sentence)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (first,), (second,), (third,) = (cell.outputs for cell in notebook.cells)
    assert set(first.data) == {VIEW, "image/png", "text/plain"}
    assert "torch.sin(3 * z)" in first.data["text/plain"]
    assert second.text.startswith("The exact gradient is 0.841.")
    assert third.text.startswith("Python cannot read 'z +'")
