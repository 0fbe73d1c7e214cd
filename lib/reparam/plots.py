"""One figure style for the whole book, and the few pictures that several chapters share.

The figures are matplotlib with seaborn, on an opaque white background. The built book shows them
in its dark mode through a CSS filter that turns the paper dark, the ink light, and keeps the hues.
A text should therefore say "ink", never "black" or "white". Color never carries a meaning alone:
dashes (`DASHES`), markers or hatches go with it.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from reparam._checks import check_count, check_float, check_number

__all__ = [
    "BLUE",
    "DASHES",
    "GREEN",
    "GREY",
    "INK",
    "PALETTE",
    "VERMILLION",
    "WIDTH",
    "draw_backward_graph",
    "gradient_histogram",
    "learning_curves",
    "many_learning_curves",
    "show_digits",
    "use_style",
]

BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
GREY = "#6B6B6B"
INK = "#000000"

#: The order in which curves take their colors, and the dashes that go with each.
PALETTE = (BLUE, VERMILLION, GREEN, GREY)
DASHES = ("-", "--", "-.", ":")

#: The width of the book's text column, 7 inches at 100 dots per inch, drawn at twice that.
WIDTH = 7.0


def use_style() -> None:
    """Set the book's figure style for everything drawn from here on.

    Call it once, after the imports. A figure is `WIDTH` = 7 inches wide, the book's text
    column, unless it asks for something else. In a notebook the pictures are stored at 200 dots per
    inch and shown at half that size, so that they are crisp, and are not cropped, so that
    the text in all of them has one size. It takes, returns and raises nothing.

    Used in every chapter.

    >>> use_style()
    >>> plt.rcParams["figure.figsize"]
    [7.0, 3.2]
    """
    sns.set_theme(
        style="ticks",
        palette=list(PALETTE),
        font="DejaVu Sans",  # matplotlib ships it, so a figure looks the same everywhere
        rc={
            "figure.figsize": (WIDTH, 3.2),
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 10.5,
            "axes.labelsize": 10.5,
            "axes.titlesize": 11.0,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "axes.linewidth": 0.9,
            "axes.edgecolor": INK,
            "lines.linewidth": 1.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        },
    )
    _sharp_notebook_pictures()


def _sharp_notebook_pictures() -> None:
    """In a notebook, double the stored pictures' resolution and do not crop them."""
    try:
        from IPython import get_ipython
        from matplotlib_inline.config import InlineBackend
    except ImportError:  # a plain script
        return
    shell = get_ipython()
    if shell is not None:
        inline = InlineBackend.instance(parent=shell)
        inline.figure_formats = {"retina"}
        inline.print_figure_kwargs = {"bbox_inches": None}


def show_digits(
    images: torch.Tensor, *, rows: int = 1, titles: Sequence[str] | None = None
) -> Figure:
    """Draw 8×8 images in a grid, row by row, ink dark on light paper.

    Args:
        images: values in [0, 1] (1 is ink), shape [n, 64] or [n, 8, 8]; n is a multiple of `rows`.
        rows: number of rows of the grid.
        titles: one text per row, written to the left of it.

    Returns:
        The figure.

    Raises:
        TypeError: if `images` is not a floating-point tensor.
        ValueError: if there is no image, the shape is another, a value is NaN or outside [0, 1],
            the rows do not come out even, or the titles are not one per row.

    Used in chapters 1, 2 and 7.

    >>> figure = show_digits(torch.zeros(6, 64), rows=2, titles=["data", "model"])
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['data', 'model']
    >>> plt.close(figure)
    """
    check_float(images=images)
    check_count("rows", rows)
    if tuple(images.shape[1:]) not in {(64,), (8, 8)}:
        raise ValueError(
            f"images must have shape [n, 64] or [n, 8, 8], got {list(images.shape)}: "
            "use images.reshape(-1, 64)"
        )
    images = images.detach().cpu().reshape(-1, 8, 8)
    if bool(((images < 0) | (images > 1)).any()):
        raise ValueError(
            f"images must lie in [0, 1], got {images.min():g} to {images.max():g}: "
            "pass probabilities, not logits, and divide grey levels by the largest"
        )
    if len(images) % rows:
        raise ValueError(
            f"{len(images)} images do not fill {rows} rows of equal length: "
            "leave some out or choose another number of rows"
        )
    if titles is not None and len(titles) != rows:
        raise ValueError(f"titles must be one text per row, {rows}, got {len(titles)}")

    columns = len(images) // rows
    scale, gap = 10, 2  # each pixel becomes 10×10; a line of 2 separates digits
    side = 8 * scale
    margin = 0.05 + (0.15 + 0.085 * max(map(len, titles)) if titles else 0)  # inches
    cell = min(0.9, (WIDTH - margin - 0.05) / columns)
    figure, all_axes = plt.subplots(
        rows, 1, figsize=(WIDTH, rows * (cell + 0.08)), squeeze=False, layout="none"
    )
    figure.subplots_adjust(
        left=margin / WIDTH,
        right=margin / WIDTH + columns * cell / WIDTH,
        top=0.98,
        bottom=0.02,
        hspace=0.06,
    )
    for row, axes in enumerate(all_axes[:, 0]):
        strip = np.full((side + 2 * gap, columns * (side + gap) + gap), 0.35)
        for column in range(columns):
            digit = np.kron(images[row * columns + column].double().numpy(), np.ones((scale,) * 2))
            left = gap + column * (side + gap)
            strip[gap : gap + side, left : left + side] = digit
        axes.imshow(strip, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        sns.despine(ax=axes, left=True, bottom=True)
        if titles is not None:
            axes.set_ylabel(titles[row], rotation=0, ha="right", va="center", labelpad=8)
    return figure


def gradient_histogram(
    estimates: Mapping[str, torch.Tensor],
    truth: float,
    *,
    parameter: str,
    bins: int = 60,
    ax: Axes | None = None,
) -> Axes:
    """Histograms of gradient estimates beside the exact gradient.

    The axis spans the middle 99 % of each set of estimates. What lies beyond is counted
    in the legend, and stays in the share, so that a heavy tail does not vanish quietly.

    Args:
        estimates: by name, a one-dimensional tensor of estimates of one derivative.
        truth: the exact derivative, drawn as a vertical line.
        parameter: what the derivative is taken with respect to, for the axis label, e.g. `"μ"`.
        bins: number of bins, the same for all.
        ax: the axes to draw on; new ones if not given.

    Returns:
        The axes.

    Raises:
        TypeError: if a set of estimates is not a floating-point tensor, or `truth` no number.
        ValueError: if there are no estimates, more sets than colors, another shape, or a value
            is not finite.

    Used in chapter 2 through `try_your_own_f`.

    >>> axes = gradient_histogram({"pathwise": torch.randn(500)}, 0.0, parameter="μ")
    >>> axes.get_xlabel()
    'gradient estimate for μ'
    >>> plt.close(axes.figure)
    """
    _check_series(estimates=estimates)
    check_count("bins", bins)
    check_number("truth", truth)
    if not np.isfinite(truth):
        raise ValueError(f"truth must be the finite exact gradient, got {truth}")
    values = {name: series.detach().cpu().double().numpy() for name, series in estimates.items()}
    for name, v in values.items():
        if v.ndim != 1:
            raise ValueError(f"estimates[{name!r}] must be a vector, got shape {list(v.shape)}")
    low = min([truth, *(np.quantile(v, 0.005) for v in values.values())])
    high = max([truth, *(np.quantile(v, 0.995) for v in values.values())])
    margin = 0.05 * (high - low) or 0.5  # all estimates equal: still a picture
    low, high = low - margin, high + margin

    ax = plt.subplots()[1] if ax is None else ax
    for index, (name, v) in enumerate(values.items()):
        inside = (v >= low) & (v <= high)
        beyond = 1 - inside.mean()
        sns.histplot(
            x=v[inside],
            weights=np.full(inside.sum(), 1 / len(v)),
            bins=list(np.linspace(low, high, bins + 1)),
            element="step",
            alpha=0.25,
            color=PALETTE[index],
            edgecolor=PALETTE[index],
            linestyle=DASHES[index],
            label=name if beyond == 0 else f"{name} ({100 * beyond:.2g} % off the axis)",
            ax=ax,
        )
    ax.axvline(truth, color=INK, linewidth=1.2, label="exact gradient")
    ax.set(
        xlabel=f"gradient estimate for {parameter}",
        ylabel="share of estimates per bin",
        xlim=(low, high),
    )
    ax.legend()
    return ax


def learning_curves(
    curves: Mapping[str, torch.Tensor],
    *,
    x: Sequence[float] | None = None,
    xlabel: str = "epoch",
    ylabel: str = "ELBO (nats per image)",
    ax: Axes | None = None,
) -> Axes:
    """The mean over runs as a line and the range of all runs as a band.

    Args:
        curves: by name, shape [points] for one run or [runs, points] for several.
        x: where the points stand; 1, 2, … if not given.
        xlabel, ylabel: axis labels, with their units.
        ax: the axes to draw on; new ones if not given.

    Returns:
        The axes.

    Raises:
        TypeError: if a curve is not a floating-point tensor.
        ValueError: if there is no curve, more than colors, another shape, a value is not finite,
            or `x` does not fit.

    Used in chapter 2.

    >>> axes = learning_curves({"training": torch.tensor([[-30.0, -25.0], [-32.0, -25.5]])})
    >>> axes.get_ylabel()
    'ELBO (nats per image)'
    >>> plt.close(axes.figure)
    """
    _check_series(curves=curves)
    ax = plt.subplots()[1] if ax is None else ax
    for index, (name, curve) in enumerate(curves.items()):
        runs, places = _runs_and_places(name, curve, x)
        ax.plot(places, runs.mean(0), color=PALETTE[index], linestyle=DASHES[index], label=name)
        if len(runs) > 1:
            ax.fill_between(
                places, runs.min(0), runs.max(0), color=PALETTE[index], alpha=0.2, linewidth=0
            )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def many_learning_curves(
    curves: Mapping[str, torch.Tensor],
    *,
    x: Sequence[float],
    highlight: Sequence[str],
    ylim: tuple[float, float],
    xlabel: str = "CPU seconds",
    ylabel: str = "ELBO (nats per image)",
    ax: Axes | None = None,
) -> Axes:
    """More curves than colors: a few stand out, the others are gray, all are named.

    A name stands at its curve's end, on the right, moved up or down where two would overlap, so
    that the names, read from the top, are a ranking.

    Args:
        curves: by name, shape [points] for one run or [runs, points] for several; drawn is the
            mean over runs, for those that stand out also the range of all runs.
        x: where the points stand.
        highlight: the names of up to four curves that stand out.
        ylim: the lowest and highest value shown; a curve that ends outside is named at the edge.
        xlabel, ylabel: axis labels, with their units.
        ax: the axes to draw on; new ones if not given.

    Returns:
        The axes.

    Raises:
        TypeError: if a curve is not a floating-point tensor.
        ValueError: if there is no curve, another shape, a value is not finite, `x` does not fit,
            `highlight` holds an unknown name or too many, or `ylim` is not increasing.

    Used in chapter 7.

    >>> curves = {name: torch.linspace(0, end, 5) for name, end in (("a", 1), ("b", 3), ("c", 2))}
    >>> axes = many_learning_curves(curves, x=range(5), highlight=["b"], ylim=(0, 3))
    >>> [text.get_text() for text in axes.texts]
    ['a', 'c', 'b']
    >>> plt.close(axes.figure)
    """
    _check_series(curves=curves, most=40)
    colors = dict(zip(highlight, (BLUE, VERMILLION, GREEN, INK), strict=False))
    if not (set(highlight) <= set(curves) and len(colors) == len(highlight)):
        raise ValueError(
            f"highlight must list up to 4 of {', '.join(curves)}, each once, got {list(highlight)}"
        )
    low, high = ylim
    if not low < high:
        raise ValueError(f"ylim must be (lowest, highest), got {ylim}")
    ax = plt.subplots(figsize=(WIDTH, 4.4))[1] if ax is None else ax
    ends = {}
    for name, curve in curves.items():
        runs, places = _runs_and_places(name, curve, x)
        style = {"color": "#B0B0B0", "linewidth": 1.0}
        if name in colors:
            dashes = DASHES[list(colors).index(name)]
            style = {"color": colors[name], "linestyle": dashes, "zorder": 3}
            ax.fill_between(
                places, runs.min(0), runs.max(0), color=colors[name], alpha=0.15, linewidth=0
            )
        ax.plot(places, runs.mean(0), **style)
        ends[name] = (runs.mean(0)[-1] - low) / (high - low)
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(min(x), max(x)), ylim=ylim)

    size = 8.5
    ranked = sorted(ends, key=ends.get)
    # Heights of the names, in parts of the axis: as near to the curves' ends as the gap allows.
    gap = 1.25 * size / 72 / (0.85 * ax.figure.get_figheight())
    steps = gap * np.arange(len(ranked))
    wanted = np.array([ends[name] for name in ranked])
    heights = isotonic_regression(wanted - steps).x.clip(0, max(1 - steps[-1], 0)) + steps
    for name, height in zip(ranked, heights, strict=True):
        ax.annotate(
            name,
            xy=(1, min(max(ends[name], 0), 1)),
            xytext=(1.04, height),
            xycoords="axes fraction",
            va="center",
            fontsize=size,
            color=colors.get(name, GREY),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colors.get(name, "#B0B0B0"),
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
    return ax


def _runs_and_places(
    name: str, curve: torch.Tensor, x: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """A curve as [runs, points], and where its points stand."""
    if curve.ndim not in {1, 2}:
        raise ValueError(
            f"curves[{name!r}] must have shape [points] or [runs, points], got {list(curve.shape)}"
        )
    runs = np.atleast_2d(curve.detach().cpu().double().numpy())
    places = np.arange(1, runs.shape[1] + 1) if x is None else np.asarray(x)
    if places.shape != runs.shape[1:]:
        raise ValueError(
            f"x must have one place per point, {runs.shape[1]} for curves[{name!r}], "
            f"got shape {list(places.shape)}"
        )
    return runs, places


def _check_series(most: int = len(PALETTE), **argument: Mapping[str, torch.Tensor]) -> None:
    """A dict of finite tensors; no more of them than can be told apart."""
    ((argument_name, series),) = argument.items()
    if not isinstance(series, Mapping) or not 1 <= len(series) <= most:
        got = f"{len(series)}" if isinstance(series, Mapping) else type(series).__name__
        raise ValueError(f"{argument_name} must be a dict of 1 to {most} named tensors, got {got}")
    for name, tensor in series.items():
        check_float(**{f"{argument_name}[{name!r}]": tensor})
        if tensor.isinf().any():
            raise ValueError(f"{argument_name}[{name!r}] holds infinity: there is no place for it")


def draw_backward_graph(
    output: torch.Tensor, leaves: Mapping[str, torch.Tensor], *, ax: Axes | None = None
) -> Axes:
    """Draw the graph that `output.backward()` will walk, from its `grad_fn` chain.

    The output stands on top; an arrow leads from each recorded operation to those that receive
    its gradient. A leaf that no arrow reaches stands below a dashed line, in a dashed frame.

    Args:
        output: the tensor whose graph is drawn; it may have none.
        leaves: tensors by the names that the picture shall show.
        ax: the axes to draw on; new ones if not given.

    Returns:
        The axes.

    Raises:
        TypeError: if `output` is not a tensor, or `leaves` no dict of tensors.

    Used in chapter 1.

    >>> mu = torch.tensor(0.0, requires_grad=True)
    >>> axes = draw_backward_graph((mu + 1) ** 2, {"μ": mu})
    >>> [text.get_text() for text in axes.texts if text.get_text()]
    ['Pow', 'Add', 'μ']
    >>> plt.close(axes.figure)
    """
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"output must be a tensor, got {type(output).__name__}")
    if not isinstance(leaves, Mapping):
        raise TypeError(f"leaves must be a dict of named tensors, got {type(leaves).__name__}")
    for name, leaf in leaves.items():
        if not isinstance(leaf, torch.Tensor):
            raise TypeError(f"leaves[{name!r}] must be a tensor, got {type(leaf).__name__}")
    names = {id(tensor): name for name, tensor in leaves.items()}
    labels, depths, arrows = {}, {}, []

    def visit(node, depth: int) -> None:
        leaf = getattr(node, "variable", None)
        labels[node] = names.get(id(leaf), "?") if leaf is not None else _operation(node)
        depths[node] = max(depth, depths.get(node, 0))
        for parent, _ in node.next_functions:
            if parent is not None:
                arrows.append((node, parent))
                visit(parent, depth + 1)

    if output.grad_fn is not None:
        visit(output.grad_fn, 0)
    bottom = max(depths.values(), default=0) + 1
    rows: dict[int, list] = {}
    for node, depth in depths.items():
        rows.setdefault(depth, []).append(node)
    missing = [name for name in leaves if name not in labels.values()]
    if missing:
        rows[bottom] = missing

    places = {
        node: ((i + 1) / (len(row) + 1), -depth)
        for depth, row in rows.items()
        for i, node in enumerate(row)
    }
    ax = plt.subplots(figsize=(WIDTH, 0.5 * (bottom + 1)))[1] if ax is None else ax
    for start, end in dict.fromkeys(arrows):
        ax.annotate(
            "",
            xy=places[end],
            xytext=places[start],
            arrowprops={"arrowstyle": "->", "color": INK, "shrinkA": 9, "shrinkB": 9},
        )
    for node, (x, y) in places.items():
        lost = node in missing
        leaf = lost or getattr(node, "variable", None) is not None
        color = VERMILLION if lost else (BLUE if leaf else INK)
        ax.text(
            x,
            y,
            node if lost else labels[node],
            ha="center",
            va="center",
            fontsize=9.5,
            color=color,
            bbox={
                "boxstyle": "round,pad=0.3",
                "facecolor": "white",
                "edgecolor": color,
                "linestyle": "--" if lost else "-",
                "linewidth": 1.6 if leaf else 0.8,
            },
        )
    if missing:
        ax.axhline(0.5 - bottom, color=VERMILLION, linestyle="--", linewidth=1.2)
        ax.text(0.98, 0.55 - bottom, "no recorded path", ha="right", va="bottom", color=VERMILLION)
    ax.set(xlim=(0, 1), ylim=(-bottom - 0.6, 0.6))
    ax.axis("off")
    return ax


def _operation(node) -> str:
    """`Pow` for `PowBackward0`."""
    return type(node).__name__.split("Backward")[0]
