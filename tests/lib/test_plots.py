"""The figure style: legible on the page in light and dark, honest pictures, clear errors."""

import io
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from reparam import plots
from tests.contrast import contrast


@pytest.fixture(autouse=True)
def _style():
    plots.use_style()
    yield
    plt.close("all")


def pixels(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer))


def dark_mode(color: str) -> np.ndarray:
    """CSS `invert(.93) hue-rotate(180deg)` on sRGB (https://www.w3.org/TR/filter-effects-1/)."""
    inverted = 0.93 + (1 - 2 * 0.93) * np.array(to_rgb(color))
    cosine, sine = -1.0, 0.0
    matrix = (
        np.array([[0.213, 0.715, 0.072]] * 3)
        + cosine
        * np.array([[0.787, -0.715, -0.072], [-0.213, 0.285, -0.072], [-0.213, -0.715, 0.928]])
        + sine * np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    )
    return (matrix @ inverted).clip(0, 1)


def test_dark_mode_turns_white_into_the_pages_background():
    assert np.round(255 * dark_mode("white")).tolist() == [0x12] * 3


@pytest.mark.parametrize("color", [*plots.PALETTE, plots.INK])
def test_colors_stand_out_on_light_and_dark_pages(color):
    assert contrast(np.array(to_rgb(color)), np.ones(3)) >= 3
    assert contrast(dark_mode(color), dark_mode("white")) >= 3


def test_text_reads_on_light_and_dark_pages():
    for key in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"):
        color = plt.rcParams[key]
        assert contrast(np.array(to_rgb(color)), np.ones(3)) >= 4.5
        assert contrast(dark_mode(color), dark_mode("white")) >= 4.5


def test_every_color_has_dashes_of_its_own():
    assert len(set(plots.DASHES)) == len(set(plots.PALETTE)) == len(plots.PALETTE)


def test_pictures_are_opaque_white_and_twice_the_column():
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1])
    image = pixels(figure)
    assert image.shape[1] == 1400
    assert image[0, 0].tolist() == [255, 255, 255, 255]
    assert image[..., 3].min() == 255


def test_notebook_pictures_are_sharp_and_uncropped(monkeypatch):
    """Run in a real IPython shell, which is what a notebook's kernel has."""
    from IPython.core.interactiveshell import InteractiveShell
    from matplotlib_inline.config import InlineBackend

    InteractiveShell.clear_instance()
    InteractiveShell.instance()
    try:
        plots.use_style()
        inline = InlineBackend.instance()
        assert inline.figure_formats == {"retina"}
        assert inline.print_figure_kwargs == {"bbox_inches": None}
    finally:
        InlineBackend.clear_instance()
        InteractiveShell.clear_instance()


def test_digits_are_ink_on_paper_and_in_order():
    images = torch.zeros(4, 64)
    images[2] = 1.0
    figure = plots.show_digits(images, rows=2, titles=["first", "second"])
    strips = [axes.images[0].get_array() for axes in figure.axes]
    gap, side = 2, 80
    assert float(strips[0][gap : gap + side, gap : gap + side].max()) == 0  # paper
    assert float(strips[1][gap : gap + side, gap : gap + side].min()) == 1  # ink
    assert figure.axes[0].images[0].get_cmap()(1.0)[:3] < (0.1, 0.1, 0.1)  # ink is dark
    assert [axes.get_ylabel() for axes in figure.axes] == ["first", "second"]


def test_digits_titles_are_not_cut_off():
    images = torch.zeros(10, 64)
    figure = plots.show_digits(images, rows=1, titles=["a rather long reconstruction"])
    figure.canvas.draw()
    box = figure.axes[0].yaxis.label.get_window_extent()
    assert box.x0 >= 0


def test_digits_take_both_shapes():
    images = torch.rand(3, 64)
    flat, square = plots.show_digits(images), plots.show_digits(images.reshape(3, 8, 8))
    assert np.array_equal(pixels(flat), pixels(square))


def test_histogram_shares_add_to_one_with_what_is_off_the_axis():
    torch.manual_seed(0)
    heavy = torch.distributions.Cauchy(0.0, 1.0).sample((10_000,))
    axes = plots.gradient_histogram({"heavy": heavy}, 0.0, parameter="μ")
    low, high = axes.get_xlim()
    outside = ((heavy < low) | (heavy > high)).double().mean().item()
    assert 0.005 < outside < 0.011
    edges = axes.collections[0].get_paths()[0].vertices  # the outline of the steps
    area = 0.5 * abs(np.dot(edges[:-1, 0], edges[1:, 1]) - np.dot(edges[1:, 0], edges[:-1, 1]))
    assert area / ((high - low) / 60) == pytest.approx(1 - outside, abs=1e-6)
    assert f"{100 * outside:.2g} % off the axis" in axes.get_legend().get_texts()[0].get_text()


def test_histogram_of_one_value_and_truth_line():
    axes = plots.gradient_histogram({"pathwise": torch.full((50,), 2.0)}, 2.0, parameter="μ")
    low, high = axes.get_xlim()
    assert low < 2.0 < high
    assert list(axes.lines[-1].get_xdata()) == [2.0, 2.0]


@pytest.mark.parametrize("truth", [-7.0, 7.0])
def test_the_truth_is_always_on_the_axis(truth):
    """A step's pathwise estimates are all 0, far from the truth: the picture must show that."""
    axes = plots.gradient_histogram({"step": torch.zeros(50)}, truth, parameter="μ")
    low, high = axes.get_xlim()
    assert low < min(truth, 0) and high > max(truth, 0)


def test_learning_curve_is_mean_and_range():
    runs = torch.tensor([[1.0, 5.0], [3.0, 6.0], [2.0, 10.0]])
    axes = plots.learning_curves({"a": runs}, x=[10, 20])
    assert axes.lines[0].get_ydata().tolist() == [2.0, 7.0]
    band = axes.collections[0].get_paths()[0].vertices
    assert set(band[band[:, 0] == 10][:, 1]) == {1.0, 3.0}
    assert axes.get_xlabel() == "epoch" and "nats" in axes.get_ylabel()


def test_learning_curve_of_one_run_has_no_band():
    assert not plots.learning_curves({"a": torch.tensor([1.0, 2.0])}).collections


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (torch.zeros(4, 63), {}, ValueError, "shape"),
        (torch.zeros(0, 64), {}, ValueError, "empty"),
        (torch.zeros(4, 64, dtype=torch.long), {}, TypeError, "floating-point"),
        (np.zeros((4, 64)), {}, TypeError, "tensor"),
        (torch.full((4, 64), torch.nan), {}, ValueError, "NaN"),
        (torch.full((4, 64), 16.0), {}, ValueError, r"\[0, 1\]"),
        (torch.zeros(4, 64), {"rows": 3}, ValueError, "rows"),
        (torch.zeros(4, 64), {"rows": 0}, ValueError, "rows"),
        (torch.zeros(4, 64), {"rows": 2, "titles": ["one"]}, ValueError, "per row"),
    ],
)
def test_show_digits_bad_input(images, options, error, message):
    with pytest.raises(error, match=message):
        plots.show_digits(images, **options)


@pytest.mark.parametrize(
    ("estimates", "truth", "error", "message"),
    [
        ({}, 0.0, ValueError, "1 to 4"),
        (torch.zeros(3), 0.0, ValueError, "dict"),
        ({str(i): torch.zeros(3) for i in range(5)}, 0.0, ValueError, "1 to 4"),
        ({"a": torch.zeros(3, 2)}, 0.0, ValueError, "vector"),
        ({"a": torch.zeros(0)}, 0.0, ValueError, "empty"),
        ({"a": torch.zeros(3, dtype=torch.int)}, 0.0, TypeError, "floating-point"),
        ({"a": torch.tensor([0.0, torch.nan])}, 0.0, ValueError, "NaN"),
        ({"a": torch.tensor([0.0, torch.inf])}, 0.0, ValueError, "infinity"),
        ({"a": torch.zeros(3)}, float("nan"), ValueError, "finite"),
        ({"a": torch.zeros(3)}, torch.tensor(0.0), TypeError, "truth must be a number, got Tensor"),
    ],
)
def test_gradient_histogram_bad_input(estimates, truth, error, message):
    with pytest.raises(error, match=message):
        plots.gradient_histogram(estimates, truth, parameter="μ")


@pytest.mark.parametrize(
    ("curves", "x", "error", "message"),
    [
        ({}, None, ValueError, "1 to 4"),
        ({"a": torch.zeros(2, 2, 2)}, None, ValueError, r"\[runs, points\]"),
        ({"a": torch.zeros(3)}, [1, 2], ValueError, "one place per point"),
        ({"a": [1.0, 2.0]}, None, TypeError, "tensor"),
        ({"a": torch.tensor([1.0, torch.nan])}, None, ValueError, "NaN"),
    ],
)
def test_learning_curves_bad_input(curves, x, error, message):
    with pytest.raises(error, match=message):
        plots.learning_curves(curves, x=x)


# Many curves


def seventeen(spread: float) -> dict[str, torch.Tensor]:
    """Curves whose ends are `spread` apart, with a name as long as any in the book."""
    names = [f"estimator {index}" for index in range(16)] + ["Gumbel-Softmax, annealed"]
    return {name: torch.linspace(-30, -20 + spread * i, 6) for i, name in enumerate(names)}


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.3, 5.0])
def test_names_of_many_curves_are_a_ranking_that_nothing_overlaps_or_cuts_off(spread):
    curves = seventeen(spread)
    axes = plots.many_learning_curves(curves, x=range(6), highlight=[], ylim=(-25, -18))
    axes.figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the leader lines
    page = axes.figure.bbox
    assert [text.get_text() for text in axes.texts] == list(curves)  # from the lowest up
    for low, high in pairwise(boxes):
        assert low.y1 < high.y0 + 3  # descenders may touch
    for box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1 and page.y0 <= box.y0 < box.y1 <= page.y1


def test_a_name_stands_at_its_curves_end_where_there_is_room():
    curves = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([0.0, 3.0])}
    axes = plots.many_learning_curves(curves, x=[0, 1], highlight=["b"], ylim=(0, 4))
    assert [text.get_position()[1] for text in axes.texts] == pytest.approx([0.25, 0.75])


def test_only_what_is_highlighted_has_color_dashes_and_a_band():
    curves = {name: torch.randn(3, 4) for name in "abc"}
    axes = plots.many_learning_curves(curves, x=range(4), highlight=["c", "a"], ylim=(-3, 3))
    a, b, c = axes.lines
    assert (c.get_color(), a.get_color()) == (plots.BLUE, plots.VERMILLION)
    assert b.get_color() not in plots.PALETTE and a.get_linestyle() != c.get_linestyle()
    assert len(axes.collections) == 2
    np.testing.assert_allclose(a.get_ydata(), curves["a"].double().mean(0), rtol=1e-6)
    colors = {text.get_text(): text.get_color() for text in axes.texts}
    assert colors == {"a": plots.VERMILLION, "b": plots.GREY, "c": plots.BLUE}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"highlight": ["nobody"]}, "highlight must list up to 4 of a, b, c, d, e"),
        ({"highlight": list("abcde")}, "highlight"),
        ({"highlight": ["a", "a"]}, "highlight"),
        ({"ylim": (1.0, 1.0)}, "ylim"),
        ({"x": [1, 2]}, "one place per point, 4"),
        ({"curves": {}}, "curves must be a dict of 1 to 40"),
        ({"curves": {"a": torch.tensor([1.0, float("inf"), 0.0, 0.0])}}, "infinity"),
    ],
)
def test_many_learning_curves_bad_input(options, message):
    curves = {name: torch.randn(4) for name in "abcde"}
    arguments = {"x": range(4), "highlight": ["a"], "ylim": (-3, 3)} | options
    arguments["highlight"] = [] if "curves" in options else arguments["highlight"]
    curves = arguments.pop("curves", curves)
    with pytest.raises(ValueError, match=message):
        plots.many_learning_curves(curves, **arguments)


@pytest.mark.parametrize(
    ("output", "leaves", "says"),
    [
        (1.0, {}, "output must be a tensor, got float"),
        (torch.ones(1), [torch.ones(1)], "leaves must be a dict of named tensors, got list"),
        (torch.ones(1), {"a": 1.0}, r"leaves\['a'\] must be a tensor, got float"),
    ],
)
def test_draw_backward_graph_bad_input(output, leaves, says):
    with pytest.raises(TypeError, match=says):
        plots.draw_backward_graph(output, leaves)
