"""The tolerance between a fresh picture and the stored one, from both sides."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tools import notebooks


def draw(scale=1.0, seed=0, dots=True, moved=0.0, title="Loss against μ", band=0.3, **settings):
    """A picture such as a chapter draws: two curves, a band, dots, labels, a legend."""
    with plt.rc_context(settings):
        figure, axes = plt.subplots(figsize=(6, 4), dpi=100)
        x = np.linspace(-2, 2, 200)
        axes.plot(x, scale * x**2, color="#0072B2", label="truth")
        axes.plot(x, x**2 + np.sin(3 * x), "--", color="#D55E00", label="estimate")
        axes.fill_between(x, x**2 - band, x**2 + band, alpha=0.2)
        if dots:
            noise = np.random.default_rng(seed).normal(size=40)
            noise[20] += moved
            axes.plot(np.linspace(-2, 2, 40), 2 + noise, ".", color="black")
        axes.set(xlabel="mean μ", ylabel="loss", title=title, ylim=(-1, 6))
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


NOISE = {
    "the same": {},
    "a float's last digits": {"scale": 1 + 1e-6},
    "a dot that snaps to the next pixel": {"moved": 0.02},
    "curves simplified otherwise": {"path.simplify_threshold": 0.3},
}
CHANGES = {
    "a curve higher by 1 %": {"scale": 1.01},
    "one dot moved": {"moved": 0.15},
    "other noise": {"seed": 1},
    "dots gone": {"dots": False},
    "a wider band": {"band": 0.33},
    "another title": {"title": "Loss against σ, squared"},
}


@pytest.mark.parametrize("noise", NOISE)
def test_noise_of_the_drawing_passes(noise):
    assert notebooks.picture_difference(draw(), draw(**NOISE[noise])) == ""


@pytest.mark.parametrize("change", CHANGES)
def test_a_real_change_does_not(change):
    assert "changed" in notebooks.picture_difference(draw(), draw(**CHANGES[change]))


def test_another_size_does_not():
    larger = draw(**{"savefig.dpi": 101})
    assert "606 x 404" in notebooks.picture_difference(draw(), larger)


def test_no_picture_does_not():
    assert "cannot be read" in notebooks.picture_difference(draw(), "bm8=")
