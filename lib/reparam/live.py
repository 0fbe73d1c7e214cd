"""The experiment that needs a kernel: the reader's own `f` (chapter 2).

What can be computed in advance is an explorer, in `reparam.explorers`. This one cannot: the reader
types any function of `z`, and Python runs it.
"""

import base64
import html
import io
import math
from dataclasses import dataclass

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

from reparam._checks import check_count, check_number
from reparam.estimators import Pathwise, ScoreFunction
from reparam.measure import exact_gradient
from reparam.plots import WIDTH, gradient_histogram

__all__ = ["TryYourOwnF", "try_your_own_f"]

_REPLICATES = 2000
_ADVICE = (
    "<p style='line-height:1.4;margin:0'>A Python expression in z, with torch and math; it runs in "
    "your own kernel. Try <code>z**2 + 10</code>, <code>torch.sin(5 * z)</code>, "
    "<code>(z &gt; 0).float()</code>.</p>"
)
_STILL = "Still picture. Run this cell in Jupyter or Colab to type an f of your own."


def try_your_own_f(f="z**2", mu=0.5, sigma=1.0, num_samples=16):
    """Two gradient estimators on an `f` that the reader types, live in Jupyter and Colab.

    A text field takes `f` as a Python expression in `z`, with `torch` and `math` at hand, such as
    `z**2`, `torch.sin(3 * z)` or `(z > 0).float()`; sliders set μ, σ and K. Below them stand the
    histograms of 2,000 pathwise and 2,000 score-function estimates of ∂E[f(z)]/∂μ, the exact
    gradient as a line, and bias and variance in words. The noise is the same each time.

    The expression runs in the reader's own kernel, with all that Python may do there.
    Where no kernel is, the output is a still picture of the start values.

    Args:
        f: the expression to start with.
        mu: the mean to start with, from -3 to 3.
        sigma: the standard deviation to start with, from 0.1 to 3.
        num_samples: K, the samples averaged in one estimate, from 1 to 64.

    Returns:
        The experiment, to be shown as the last line of a cell.

    Raises:
        TypeError: if `f` is not a text, or another argument not a number.
        ValueError: if a number is outside the range of its slider.

    Used in chapter 2.

    >>> try_your_own_f("torch.sin(3 * z)", mu=1.0)  # doctest: +ELLIPSIS
    <live experiment: estimates of the μ-gradient of E[f(z)]; f(z) = torch.sin(3 * z), ...>
    """
    return TryYourOwnF(f, mu, sigma, num_samples)


class TryYourOwnF:
    """The widgets of `try_your_own_f`, and what they show.

    Attributes:
        f, mu, sigma, num_samples: the controls, ipywidgets with a `.value`.
        sentence: what the estimates say, or what is wrong with the expression.
        widget: the box that holds everything.

    Args, raises: as for `try_your_own_f`.

    Used in chapter 2 through `try_your_own_f`.

    >>> experiment = TryYourOwnF("3 * z", mu=0.5, sigma=1.0, num_samples=16)
    >>> experiment.sentence
    'The exact gradient is 3. Pathwise: mean 3 ...'
    >>> experiment.f.value = "3 * y"  # as if the reader typed it
    >>> experiment.sentence
    "3 * y raises NameError: name 'y' is not defined. ..."
    """

    def __init__(self, f, mu, sigma, num_samples):
        if not isinstance(f, str):
            raise TypeError(
                f"f must be the text of an expression, such as 'z**2', got {type(f).__name__}"
            )
        _check_range("mu", mu, -3, 3)
        _check_range("sigma", sigma, 0.1, 3)
        check_count("num_samples", num_samples)
        _check_range("num_samples", num_samples, 1, 64)

        def labelled(control, label, **options):
            return control(
                description=label,
                continuous_update=False,  # draw when a slider is let go, not on its way
                layout=widgets.Layout(width="98%", max_width="38em"),
                style={"description_width": "13em"},
                **options,
            )

        slider, whole = widgets.FloatSlider, widgets.IntSlider
        self.f = labelled(widgets.Text, "f(z) =", value=f)
        self.mu = labelled(slider, "mean μ", value=mu, min=-3, max=3, step=0.05)
        self.sigma = labelled(
            slider, "standard deviation σ", value=sigma, min=0.1, max=3, step=0.05
        )
        self.num_samples = labelled(whole, "number of samples K", value=num_samples, min=1, max=64)
        self._picture, self._words = widgets.HTML(), widgets.HTML()
        controls = [self.f, self.mu, self.sigma, self.num_samples]
        for control in controls:
            control.observe(lambda change: self._update(), names="value")
        self.widget = widgets.VBox(
            [self.f, widgets.HTML(_ADVICE), *controls[1:], self._picture, self._words]
        )
        self._update()

    def __repr__(self):
        return f"<live experiment: estimates of the μ-gradient of E[f(z)]; {self._setting()}>"

    def _setting(self):
        return (
            f"f(z) = {self.f.value}, z ~ N({self.mu.value:g}, {self.sigma.value:g}²), "
            f"K = {self.num_samples.value}"
        )

    def _repr_mimebundle_(self, include=None, exclude=None):
        # A front end that knows widgets takes the first; a page without a kernel, the picture.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view, "text/plain": repr(self)}
        if self._findings:
            bundle["image/png"] = _base64(self._png(_STILL))
        return bundle

    def _update(self):
        """Redo everything for the controls' values; runs whenever one of them changes."""
        try:
            self._findings = _experiment(
                self.f.value, self.mu.value, self.sigma.value, self.num_samples.value
            )
            self.sentence = self._findings.sentence()
            alt = html.escape(f"Two histograms of gradient estimates. {self.sentence}")
            self._picture.value = (
                f'<img alt="{alt}" style="width:100%;max-width:{WIDTH * 100:.0f}px" '
                f'src="data:image/png;base64,{_base64(self._png())}">'
            )
        except _Refused as reason:
            # No picture rather than the last one, which would belong to another f.
            self._findings, self._picture.value, self.sentence = None, "", str(reason)
        self._words.value = (
            f'<p role="status" style="line-height:1.4">{html.escape(self.sentence)}</p>'
        )

    def _png(self, note=""):
        # A Figure of its own: one of pyplot's would also be shown under the cell.
        figure = Figure(figsize=(WIDTH, 3.4), facecolor="white", layout="constrained")
        axes = figure.subplots()
        found = self._findings
        gradient_histogram(found.estimates, found.truth, parameter="μ", ax=axes)
        axes.set_title(self._setting(), fontsize="medium", loc="left", parse_math=False)
        figure.supxlabel(note, fontsize="small", style="italic")
        stored = io.BytesIO()
        figure.savefig(stored, format="png", dpi=200)
        return stored.getvalue()


class _Refused(Exception):
    """The expression cannot be used; the message says why, in one sentence."""


@dataclass(frozen=True)
class _Findings:
    """Estimates by the estimator's name, each of shape [replicates], and the exact gradient."""

    estimates: dict[str, Tensor]
    truth: float
    error: float

    def sentence(self):
        parts = [f"The exact gradient is {_number(self.truth)}."]
        variance, biased = {}, set()
        for name, g in self.estimates.items():
            variance[name] = g.var().item()
            mean, standard_error = g.mean().item(), math.sqrt(variance[name] / len(g))
            miss = mean - self.truth
            if abs(miss) > 5 * standard_error + self.error + 1e-5 * abs(self.truth):
                biased.add(name)
                verdict = f"biased: off by {_number(miss)}"
            else:
                verdict = "no bias to be seen"
            parts.append(
                f"{name.capitalize()}: mean {_number(mean)} (standard error "
                f"{standard_error:.2g}), variance {_number(variance[name])}, {verdict}."
            )
        narrow, wide = sorted(variance, key=variance.get)
        if variance[narrow] == variance[wide]:
            return " ".join(parts)
        lead = f"The {narrow} estimates scatter less"
        if variance[narrow] > 1e-12 * variance[wide]:
            lead += f", by a factor of {variance[wide] / variance[narrow]:.2g} in variance"
        if narrow in biased:
            lead += ", around the wrong value"
        return " ".join([*parts, lead + "."])


def _experiment(expression, mu, sigma, num_samples):
    """Estimates of ∂E[f(z)]/∂μ by both estimators, and the truth; _Refused if there is none."""
    f = _function(expression)
    nearby = mu + sigma * torch.linspace(-4, 4, 81, dtype=torch.float64)
    if not (finite := f(nearby).isfinite()).all():
        raise _Refused(
            f"f must be finite wherever z can fall, and {expression} is not at "
            f"z = {_number(nearby[~finite][0].item())}: use one that is, such as torch.log1p(z**2)."
        )
    reach = mu - 38 * sigma, mu + 38 * sigma  # the density is 0 beyond, in float64
    try:
        truth = exact_gradient(
            lambda z: f(z.clamp(*reach)),
            lambda loc: Normal(loc, sigma),
            {"loc": torch.tensor(mu, dtype=torch.float64)},
            break_points=_break_points(f, mu, sigma),
            tolerance=1e-6,
        )
    except (ValueError, TypeError) as error:
        raise _Refused(
            "No exact gradient was found for this f, so there is nothing to hold the estimates "
            f"against. The library says: {error}."
        ) from None
    estimates = {}
    for name, estimator in {"pathwise": Pathwise(), "score function": ScoreFunction()}.items():
        # One μ for each replicate: the gradient of the sum is one estimate for each.
        loc = torch.full((_REPLICATES,), float(mu), dtype=torch.float64, requires_grad=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            value = estimator(f, Normal(loc, sigma), num_samples)
        (estimates[name],) = torch.autograd.grad(value.sum(), loc)
        if not estimates[name].isfinite().all():
            raise _Refused(
                f"Some {name} estimates are not finite: f or its slope blows up where z falls."
            )
    return _Findings(estimates, truth.gradient["loc"].item(), truth.error["loc"].item())


def _function(expression):
    """The expression as a function of `z` that refuses, in one sentence, what it cannot use."""
    if not expression.strip():
        raise _Refused("There is no f yet: type an expression in z, such as z**2.")
    try:
        code = compile(expression.strip(), "f", "eval")
    except (SyntaxError, ValueError) as error:
        raise _Refused(
            f"Python cannot read {expression!r} ({getattr(error, 'msg', error)}): type one "
            "expression in z, such as z**2 or torch.sin(3 * z)."
        ) from None

    def f(z):
        # A copy, so that an expression such as z.abs_() cannot change the samples themselves.
        names = {"torch": torch, "math": math, "z": z.clone()}
        try:
            values = eval(code, names)
        except Exception as error:  # the reader's code may raise anything
            said = str(error).strip().splitlines() or [""]
            raise _Refused(
                f"{expression} raises {type(error).__name__}: {said[0].rstrip('.')}. Type an "
                "expression in z with torch's functions, such as torch.sin(3 * z)."
            ) from None
        if not isinstance(values, Tensor) or values.shape != z.shape:
            came = f"shape {list(values.shape)}" if isinstance(values, Tensor) else repr(values)
            raise _Refused(
                f"f must give one value for each z: for {list(z.shape)} of them {expression} "
                f"gave {came[:60]}. Use z itself, without sums over it, such as z**2."
            )
        if not values.is_floating_point():
            raise _Refused(
                f"f must give real numbers, and {expression} gave {values.dtype}: "
                f"try ({expression}).float()."
            )
        values = values.to(z.dtype)
        # A comparison leaves no path to z, and a slope of zero is what it stands for.
        return values if values.requires_grad or not z.requires_grad else values + 0 * z

    return f


def _break_points(f, mu, sigma):
    """Where f or its slope jumps: halve the steepest steps of a grid and keep what stays steep."""
    grid = mu + sigma * torch.linspace(-10, 10, 4001, dtype=torch.float64)

    def slope(z):
        z = z.detach().requires_grad_()
        return torch.autograd.grad(f(z).sum(), z)[0].nan_to_num()

    found = set()
    for function in (f, slope):
        steps = function(grid).diff().abs()
        steepest = steps.topk(256).indices
        low, high = grid[steepest], grid[steepest + 1]
        for _ in range(45):
            middle = (low + high) / 2
            at_low, at_middle, at_high = function(torch.stack([low, middle, high]))
            left = (at_middle - at_low).abs() > (at_high - at_middle).abs()
            low, high = torch.where(left, low, middle), torch.where(left, middle, high)
        jumps = (function(high) - function(low)).abs() > 1e-4 * steps.max()
        found.update(high[jumps].tolist())
    return sorted(found)


def _number(x):
    return "0" if abs(x) < 1e-9 else f"{x:.3g}".replace("-", "−")


def _base64(data):
    return base64.b64encode(data).decode()


def _check_range(name, value, low, high):
    check_number(name, value)
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, got {value}")
