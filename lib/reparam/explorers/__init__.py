"""The course's interactive figures: predict, make one gesture, read what was found.

Each function returns an `Explorer`. As the last value of a notebook cell it shows itself as one
self-contained piece of HTML that works without a kernel and without a network; where scripts do not
run, its still picture stands in.

>>> explorer = mu_sigma_epsilon()
>>> explorer.noise.shape
torch.Size([24])
>>> len(explorer._repr_html_().encode()) < 30_000
True
"""

import base64
import functools
import html
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reparam._checks import check_count
from reparam._embed import embed
from reparam.explorers.methods import CARDS, FACTS, METHODS, decision_table, formula
from reparam.long_runs import load
from reparam.noise import gumbel_noise

__all__ = [
    "Explorer",
    "chooser",
    "decision_table",
    "fresh_noise",
    "fresh_or_frozen",
    "latent_plane",
    "mu_sigma_epsilon",
    "raw_to_sigma",
    "simplex",
    "transport",
    "two_histograms",
    "warped_grid",
]

_FOLDER = Path(__file__).parent
# What a data address inside an attribute in double quotes must escape.
_ESCAPES = str.maketrans({"%": "%25", "#": "%23", '"': "%22", "&": "%26"})
# Fresh draws from this number on are the twenty other seeds of `fresh_or_frozen`.
_OTHERS = 2_000_000


@dataclass(frozen=True, eq=False)
class Explorer:
    """An interactive figure: what it claims, its start state, and the noise that it shows.

    Attributes:
        name: the name of its JavaScript file and of its still.
        claim: the one thing it shows, also written on its still.
        state: JSON-serializable start values.
        noise: the noise (standard normal; Gumbel in `simplex`), float64, exactly as the page uses
            it: a notebook cell that computes with it gets the numbers on the page. Empty where
            there is none.

    Every chapter shows one, or two.

    >>> explorer = two_histograms()
    >>> explorer
    <interactive figure two_histograms: Two estimators of one gradient: ...>
    >>> explorer.noise.shape
    torch.Size([200, 16])
    """

    name: str
    claim: str
    state: dict
    noise: Tensor

    @property
    def javascript(self) -> str:
        """All code, with `export default { render, … }`: it also runs as an anywidget's `_esm`."""
        return (_FOLDER / "built" / f"{self.name}.js").read_text(encoding="utf-8")

    @property
    def still(self) -> str:
        """The still picture, as SVG text."""
        return (_FOLDER / "stills" / f"{self.name}.svg").read_text(encoding="utf-8")

    def _repr_html_(self) -> str:
        # An <img>, because what strips SVG out of HTML (GitHub does) would leave its tick labels
        # behind as loose text.
        picture = "data:image/svg+xml," + self.still.strip().translate(_ESCAPES)
        alt = html.escape(self.claim)
        fallback = (
            f'<figure style="margin:0"><img src="{picture}" alt="{alt}" style="max-width:100%">'
            "<figcaption>A still picture of what is found: where scripts run, it is interactive."
            "</figcaption></figure>"
        )
        return embed(self.javascript, self.state, fallback)

    def __repr__(self) -> str:
        return f"<interactive figure {self.name}: {self.claim}>"


def _draw(*shape: int, seed: int) -> Tensor:
    """Standard normal noise on a grid of 1/4096, so that a page holds it exactly in 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return (noise * 4096).round() / 4096


def _encode(noise: Tensor) -> str:
    steps = (noise.flatten() * 4096).to(torch.int16)
    return base64.b64encode(steps.numpy().astype("<i2").tobytes()).decode()


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ValueError(f"seed must be a whole number from 0 to 2**31 - 1, got {seed!r}")


def _mix(x: Tensor) -> Tensor:
    """A bijection of the 32-bit integers that scatters them (Wellons, "lowbias32")."""
    mask = 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & mask
    x = ((x ^ (x >> 15)) * 0x846CA68B) & mask
    return x ^ (x >> 16)


def fresh_noise(seed: int, draw: int, size: int) -> Tensor:
    """The noise of one fresh draw, as the pages of `fresh_or_frozen` and `two_histograms` make it.

    A counter-based generator: `(seed, draw)` decides the noise, so the story on the page can be
    told again, there and here.

    Args:
        seed: the explorer's seed.
        draw: which draw, counted from 0 (the first visit).
        size: how many values.

    Returns:
        Standard normal noise of shape `[size]`, float64, on a grid of 1/4096.

    Raises:
        TypeError: if `draw` or `size` is no int.
        ValueError: if `seed` is out of range, or `draw` or `size` negative.

    Used in no chapter: the pages in chapters 1 and 3 draw so.

    >>> fresh_noise(0, 0, 64).shape
    torch.Size([64])
    """
    _check_seed(seed)
    check_count("draw", draw, least=0)
    check_count("size", size, least=0)
    mask = 0xFFFFFFFF
    key = _mix((_mix(torch.tensor(seed + 1)) + draw) & mask)
    counter = torch.arange(1, 2 * size + 1)
    uniform = (_mix(key ^ _mix(counter)).double() + 0.5) / 2**32
    radius = (-2 * uniform[0::2].log()).sqrt()
    return (radius * (2 * math.pi * uniform[1::2]).cos() * 4096).round() / 4096


def fresh_or_frozen(num_samples: int = 64, seed: int = 19) -> Explorer:
    """A Monte Carlo loss against μ, under fresh and under frozen noise (chapter 1).

    The loss is the mean of `(μ + ε)²` over `num_samples` draws; the truth is `μ² + 1`.

    Args:
        num_samples: samples in each estimate, 16 to 96.
        seed: of all noise. With the default, the first estimate at μ = 1 is a high one, so that no
            second visit rounds to the same two digits.

    Returns:
        An `Explorer` whose `noise` has shape `[21, num_samples]`: row 0 is the frozen noise, the
        others are the twenty other seeds. Visit number `n` (from 0) of the fresh noise uses
        `fresh_noise(seed, n, num_samples)`.

    Raises:
        ValueError: if an argument is out of range.

    >>> eps = fresh_or_frozen().noise[0]
    >>> mu = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    >>> (mu + eps).square().mean().backward()
    >>> torch.allclose(mu.grad, 2 * (1 + eps.mean()))
    True
    """
    if (
        isinstance(num_samples, bool)
        or not isinstance(num_samples, int)
        or not 16 <= num_samples <= 96
    ):
        raise ValueError(f"num_samples must be a whole number from 16 to 96, got {num_samples!r}")
    _check_seed(seed)
    others = [fresh_noise(seed, _OTHERS + i, num_samples) for i in range(20)]
    noise = torch.stack([_draw(num_samples, seed=seed), *others])
    state = {
        "guess": "", "noise": "fresh", "mu": 1.0, "bet": "", "shrunk": "no", "logstep": -1.0,
        "fresh": "K", "frozen": "", "from": 0,
        "frozen_noise": _encode(noise[0]), "seed": seed, "size": num_samples,
    }  # fmt: skip
    claim = (
        "With fresh noise one μ gets a new height at each visit: no slope to follow. "
        "With frozen noise the estimate is one smooth curve, with a tangent."
    )
    return Explorer("fresh_or_frozen", claim, state | {"claim": claim}, noise)


def mu_sigma_epsilon(seed: int = 41) -> Explorer:
    """Twenty-four samples `z = μ + σ·ε` and how each answers μ and σ (chapter 2).

    Args:
        seed: of the noise.

    Returns:
        An `Explorer` whose `noise` has shape `[24]`, sorted.

    Raises:
        ValueError: if `seed` is out of range.

    >>> eps = mu_sigma_epsilon().noise
    >>> bool((eps.diff() >= 0).all())
    True
    """
    _check_seed(seed)
    noise = _draw(24, seed=seed).sort().values
    state = {
        "guess": "", "seen": "no", "mu": 1.0, "sigma": 1.0, "part": "samples", "wrt": "sigma",
        "f": "square", "noise": _encode(noise),
    }  # fmt: skip
    claim = (
        "Each sample hangs on its own fixed ε: moving μ moves all of them alike, "
        "stretching σ moves each by its ε, sign included."
    )
    return Explorer("mu_sigma_epsilon", claim, state | {"claim": claim}, noise)


def two_histograms(seed: int = 57) -> Explorer:
    """Pathwise and score function estimates of one gradient, on one axis (chapter 3).

    Two hundred of each, with `z = μ + σ·ε` and `f` one of `z²`, `sin 5z`, `z² + 10` and the step
    `z > 1.5`, with the truth and both exact variances. The axis holds every estimate.

    Args:
        seed: of the noise. With the default, the measured variances of all four functions at
            μ = σ = K = 1 are within an eighth of the exact ones, as few seeds give (tails are
            heavy).

    Returns:
        An `Explorer` whose `noise` has shape `[200, 16]`: estimate `i` with `K` samples uses
        `noise[i, :K]`, which is `fresh_noise(seed, i, 16)[:K]`.

    Raises:
        ValueError: if `seed` is out of range.

    >>> eps = two_histograms().noise[:, 0]
    >>> pathwise, score = 2 * (1 + eps), (1 + eps) ** 2 * eps  # f = z², μ = σ = K = 1
    >>> bool(pathwise.var() < score.var())
    True
    """
    _check_seed(seed)
    noise = torch.stack([fresh_noise(seed, draw, 16) for draw in range(200)])
    state = {
        "guess": "", "path": 4.0, "score": 4.0, "n": 0, "bet": "", "opened": "0", "f": "square",
        "by": "mu", "k": "1", "mu": 1.0, "sigma": 1.0, "seed": seed,
    }  # fmt: skip
    claim = (
        "Two estimators of one gradient: pathwise follows the slope of f, the score function "
        "f itself. At μ = σ = 1 their variances are 4.00 and 30.0 for z², but 12.5 "
        "and 0.500 for sin 5z: the winner flips."
    )
    return Explorer("two_histograms", claim, state | {"claim": claim}, noise)


def chooser() -> Explorer:
    """Fifteen estimators, and the facts about a problem that strike them out (chapter 7).

    What it shows is `decision_table`, which is held against the library in its tests.

    Returns:
        An `Explorer` without noise; no error is raised.

    >>> "ARM()(f, q)" in chooser()._repr_html_()
    True
    """
    methods = [
        [m.name, m.call, m.wants, m.needs, m.bias, m.variance,
         formula(m.evaluations), formula(m.evaluations_normal), m.chapter, m.section, m.preset]
        for m in METHODS
    ]  # fmt: skip
    facts = {name: [fact.question, fact.answers, fact.reasons] for name, fact in FACTS.items()}
    cards = [[card.title, card.text, card.picks, card.facts] for card in CARDS]
    answers = dict.fromkeys(FACTS, "")
    claim = (
        "Facts strike estimators out, each with a reason; what is left is a choice between bias, "
        "variance and evaluations of f, not one winner."
    )
    state = {"card": "0", "guess": "", "last": "", **answers, "claim": claim}
    given = {"methods": methods, "facts": facts, "cards": cards}
    return Explorer("chooser", claim, state | given, torch.empty(0, dtype=torch.float64))


def raw_to_sigma(seed: int = 41) -> Explorer:
    """An encoder's raw output r, made a σ by five maps in three dtypes (chapter 4).

    The page rounds each operation as torch does, so that its zeros, infinities and NaN stand where
    torch has them.

    Args:
        seed: of the noise.

    Returns:
        An `Explorer` whose `noise` has shape `[24]`, sorted: those of `mu_sigma_epsilon`. The
        stored samples are `2 + sigma * noise` in the dtype shown.

    Raises:
        ValueError: if `seed` is out of range.

    >>> raw = torch.tensor([-5.5, -6.0], dtype=torch.bfloat16)
    >>> ((1 + raw.exp()).log() > 0).tolist()
    [True, False]
    """
    _check_seed(seed)
    noise = _draw(24, seed=seed).sort().values
    state = {
        "guess": "", "seen": "no", "r": -2.0, "map": "hand", "dtype": "bfloat16",
        "noise": _encode(noise),
    }  # fmt: skip
    claim = (
        "In bfloat16, log(1 + eʳ) is exactly 0 below r = −5.55: 1 + eʳ rounds to 1. The KL is "
        "infinite there, and so is its gradient."
    )
    return Explorer("raw_to_sigma", claim, state | {"claim": claim}, noise)


def transport() -> Explorer:
    """Twenty even u through an inverse CDF, and how fast each sample answers θ (chapter 5).

    Seven distributions, each with one parameter: the exponential's rate, the logistic's location,
    the scales of Gumbel and Cauchy, the Weibull's concentration (its scale is 1), the Kumaraswamy's
    first concentration (the second is 2), and the weight of one of two Gaussians, whose inverse CDF
    has no formula. The speed is `dz/dθ = -∂F/∂θ / p(z)`.

    Returns:
        An `Explorer` without noise; no error is raised.

    >>> u = (torch.arange(20) + 0.5) / 20
    >>> rate = torch.tensor(1.0, requires_grad=True)
    >>> z = -torch.log1p(-u) / rate
    >>> z.sum().backward()
    >>> torch.allclose(rate.grad, -z.sum() / rate)
    True
    """
    claim = (
        "u stays, and each sample z slides at the speed −∂F/∂θ ÷ p(z): the gap between the old "
        "curve and the new one over the density, so it runs where density is thin."
    )
    state = {
        "guess": "", "seen": "no", "family": "exponential", "theta": 1.0, "weight": 0.5,
        "trace": 16,
    }  # fmt: skip
    nothing = torch.empty(0, dtype=torch.float64)
    return Explorer("transport", claim, state | {"claim": claim}, nothing)


@functools.cache
def _relaxed_moments() -> list[int]:
    """What `simplex` draws as exact: for each of its 41 temperatures, in steps of 1e-4, the means
    of `y_1` and `y_2` and the mean and the standard deviation of `y_1 (1 - y_1) / τ`.

    Two differences of the three Gumbel variables decide a sample. Their density is a rational
    function of exponentials, and the trapezoidal rule, its nodes drawn together where two classes
    tie, converges on it exponentially.
    """
    moments = []
    for step in range(41):
        tau = 10 ** (-1.3 + 0.05 * step)
        width = min(tau, 1.0)
        t = torch.linspace(-1, 1, 161, dtype=torch.float64) * math.asinh(45 / width)
        difference, weight = width * t.sinh(), width * t.cosh() * (t[1] - t[0])
        rises = (difference / tau).exp()
        y = 1 / (1 + rises[:, None] + rises)
        slope = y * (1 - y) / tau
        # Class k against the two others, i and j.
        for p_k, p_i, p_j in ((0.6, 0.3, 0.1), (0.3, 0.6, 0.1)):
            times = (-difference).exp()
            rate = p_k + p_i * times[:, None] + p_j * times
            mass = 2 * p_k * p_i * p_j * (weight * times)[:, None] * (weight * times) / rate**3
            moments.append((mass * y).sum())
            if p_k == 0.6:
                mean = (mass * slope).sum()
                spread = ((mass * slope**2).sum() - mean**2).sqrt()
        moments += [mean, spread]
    return [round(1e4 * moment.item()) for moment in moments]


def simplex(seed: int = 1766) -> Explorer:
    """Sixty relaxed samples of three classes on their triangle, as τ falls (chapter 5).

    The samples are `softmax((log π + G) / τ)` with `π = (0.6, 0.3, 0.1)` and fixed Gumbel noise G:
    those of `reparam.relaxed.gumbel_softmax` on that noise.

    Args:
        seed: of the noise. With the default, the labels' shares are π exactly, and the mean of the
            sixty is within 0.013 of the exact one at τ = 1, 0.5 and 0.2, as few seeds give.

    Returns:
        An `Explorer` whose `noise`, Gumbel noise on a grid of 1/4096, has shape `[60, 3]`.

    Raises:
        ValueError: if `seed` is out of range.

    >>> z = torch.tensor([0.6, 0.3, 0.1]).log() + simplex().noise
    >>> z.argmax(-1).bincount().tolist()
    [36, 18, 6]
    """
    _check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    noise = gumbel_noise((60, 3), dtype=torch.float64, generator=generator)
    noise = (noise.clamp(max=7.99) * 4096).round() / 4096
    state = {
        "guess": "", "seen": "no", "logtau": 0.0, "noise": _encode(noise),
        "exact": _relaxed_moments(),
    }  # fmt: skip
    claim = (
        "As τ falls, every draw runs to its own corner and none changes it. The mean of the "
        "relaxed samples nears π, and the gradient spreads ever wider."
    )
    return Explorer("simplex", claim, state | {"claim": claim}, noise)


def warped_grid() -> Explorer:
    """A grid under one planar or radial layer: where it folds, and what density does (chapter 6).

    The planar layer is `z + u tanh(w·z)` with `w = (1.2, 0.9)`; the radial one
    `z + β (z - c) / (α + r)` with `c = (-0.4, 0.4)` and `α = 1`. Constrained, they are those of
    `reparam.flows`.

    Returns:
        An `Explorer` without noise; no error is raised.

    >>> w, u = torch.tensor([1.2, 0.9]), torch.tensor([-0.8, -0.6])
    >>> jacobian = torch.func.jacfwd(lambda z: z + u * (w @ z).tanh())(torch.zeros(2))
    >>> bool(torch.linalg.det(jacobian) < 0)  # w·u is -1.5: it has folded
    True
    """
    claim = (
        "Area × density of the traced cell stays. Below w·u = −1 the grid folds: cells turn over, "
        "and the formula is no density any more."
    )
    state = {
        "guess": "", "seen": "no", "layer": "planar", "pull": 1.0, "across": 0.0, "safe": "no",
        "cells": 12,
    }  # fmt: skip
    nothing = torch.empty(0, dtype=torch.float64)
    return Explorer("warped_grid", claim, state | {"claim": claim}, nothing)


def latent_plane(seed: int = 1362) -> Explorer:
    """Nine draws of one posterior in a plane of codes, each with its decoded image (chapter 8).

    The VAE is that of `reparam.long_runs.latent_plane`. The page decodes with that run's weights,
    rounded to 8 bits, and shows `μ + σ ⊙ noise` for the posterior of one held-out digit, which is
    `state["posterior"]`.

    Args:
        seed: of the noise. With the default, the ELBO of the nine draws is within a quarter of a
            nat of the exact one near the encoder's posterior, as few seeds give.

    Returns:
        An `Explorer` whose `noise` has shape `[9, 2]`: in rows of three tiles as on the page, the
        largest `noise[:, 1]` in the first row and the smallest `noise[:, 0]` first in each.

    Raises:
        ValueError: if `seed` is out of range.

    >>> explorer = latent_plane()
    >>> z = torch.tensor(explorer.state["posterior"]["mu"]) + 0 * explorer.noise
    >>> len(z.unique(dim=0))
    1
    """
    _check_seed(seed)
    noise = _draw(9, 2, seed=seed)
    rows = noise[noise[:, 1].argsort(descending=True)].split(3)
    noise = torch.cat([row[row[:, 0].argsort()] for row in rows])
    run = load("latent_plane")
    mu, sigma = run["shown"]["mu"], run["shown"]["sigma"]
    state = {
        "guess": "", "seen": "no", "s": 1.0, "mu1": mu[0], "mu2": mu[1], "x": run["shown"]["x"],
        "posterior": {"mu": mu, "sigma": sigma}, "noise": _encode(noise),
        **{key: run[key] for key in ("weights", "scales", "codes", "labels")},
    }  # fmt: skip
    claim = (
        "Each tile owns its ε. At σ = 0 all nine decode one z; as σ grows they part, each by its "
        "σ ⊙ ε. Moving μ changes no offset."
    )
    return Explorer("latent_plane", claim, state | {"claim": claim}, noise)
