"""Every plot, as an RGB image; writing it is for ``images``.

Plots are drawn on a canvas of their own, without ``pyplot``: no window system is asked for, and
nothing global is changed or kept.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camseg.base.arrays import Image, check_image
from camseg.base.errors import InputError
from camseg.measure.overlays import GRID, INK, PAPER

if TYPE_CHECKING:  # matplotlib is loaded by the first plot
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")  # Okabe and Ito
_STYLES = ("-", "--", ":", "-.")
_DPI = 150


def plot_history(history: Sequence[Mapping[str, float]]) -> Image:
    """Losses and scores against the epoch, from one mapping per epoch.

    Names that hold ``loss`` are drawn on the left; those that hold ``accuracy``, ``f1``, ``dice`` or ``iou``, in
    [0, 1], on the right; others are left out. ``epoch`` numbers the epochs, else they count from 1.
    A value may be missing or NaN. What is named ``train...`` is dashed. Raises InputError if there
    is no epoch or no such name.
    """
    names = list(dict.fromkeys(name for epoch in history for name in epoch))
    losses = [name for name in names if "loss" in name]
    scores = [name for name in names if any(word in name for word in ("accuracy", "f1", "dice", "iou"))]
    if not losses and not scores:
        raise InputError(
            f"expected epochs with a loss, accuracy, f1, dice or iou; got {len(history)} epochs of {names}"
        )
    epochs = [epoch.get("epoch", number) for number, epoch in enumerate(history, 1)]
    panels = [(kind, keys) for kind, keys in (("loss", losses), ("score", scores)) if keys]
    figure = _figure(4.6 * len(panels), 3.4)
    for axes, (kind, keys) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        metrics = list(dict.fromkeys(_metric(name) for name in keys))
        for name in keys:
            values = [epoch.get(name, math.nan) for epoch in history]
            color = _LINES[metrics.index(_metric(name)) % len(_LINES)]
            width, style = (1.2, "--") if name.startswith("train") else (2, "-")
            axes.plot(
                epochs,
                values,
                style,
                color=color,
                linewidth=width,
                marker=".",
                markersize=4,
                label=name.replace("_", " "),
            )
        _finish(axes, "epoch", kind)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        low, high = axes.get_ylim()
        axes.set_ylim(*((0, 1.05 * high) if kind == "loss" else (low - 0.02, 1.01)))
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _render(figure)


def _metric(name: str) -> str:
    return name.removeprefix("train_").removeprefix("val_")


def plot_confusion(matrix: ArrayLike, classes: Sequence[str]) -> Image:
    """How often each true class (row) was predicted as each class (column): counts and per cent of the row.

    ``matrix`` holds counts (classes, classes). Raises InputError for another shape, negative
    counts or no class.
    """
    counts = np.asarray(matrix)
    if not classes or counts.shape != (len(classes), len(classes)) or not np.all(counts >= 0):
        raise InputError(
            f"expected counts of 0 or more in the shape ({len(classes)}, {len(classes)}), one row and column "
            f"for each class; got {counts.dtype} {counts.shape}"
        )
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(100.0 * counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    cell = min(1.2, max(0.42, 3.6 / len(classes)), 20 / len(classes))  # inches
    names = [name if len(name) <= 20 else name[:19] + "…" for name in classes]
    figure = _figure(cell * len(names) + 1.6, cell * len(names) + 1.6)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if cell >= 0.42:  # smaller cells would hold no legible number; the colour still says it
        for (row, column), count in np.ndenumerate(counts):
            if count:
                tone = "white" if share[row, column] > 55 else INK
                label = f"{count:g}\n{share[row, column]:.0f} %"
                axes.text(column, row, label, ha="center", va="center", color=tone, fontsize=min(11, 5 + 5 * cell))
    wide = 0.08 * max(map(len, names)) > cell
    axes.set_xticks(range(len(names)), names, rotation=90 if wide else 0)
    axes.set_yticks(range(len(names)), names)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    _finish(axes, "predicted", "true")
    axes.grid(False)
    return _render(figure)


def plot_reliability(tables: Mapping[str, NDArray[np.floating]]) -> Image:
    """Accuracy against confidence, a line for each name; on the diagonal a classifier is as sure as it is right.

    A table (bins, 3) holds for each bin decisions and the sums of their confidence and of right ones, as
    ``metrics.reliability`` counts them; the larger a dot, the more decisions. Raises InputError if there is no table,
    or one has another shape or no decision.
    """
    if not tables or any(table.ndim != 2 or table.shape[1] != 3 or not table.any() for table in tables.values()):
        shapes = {name: table.shape for name, table in tables.items()}
        raise InputError(f"expected tables (bins, 3) with a decision in each; got {shapes}")
    figure = _figure(4.2, 4.0)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1)
    for index, (name, table) in enumerate(tables.items()):
        decisions, confidence, right = table[table[:, 0] > 0].T
        color = _LINES[index % len(_LINES)]
        axes.plot(confidence / decisions, right / decisions, color=color, linewidth=2, label=name)
        axes.scatter(confidence / decisions, right / decisions, 8 + 120 * decisions / decisions.sum(), color=color)
    _finish(axes, "confidence", "accuracy")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _render(figure)


def plot_threshold_curves(
    curves: Mapping[str, NDArray[np.floating]], *, ylabel: str, marks: Mapping[str, int] | None = None
) -> Image:
    """A score against the threshold 0..255, one curve of shape (256,) for each name.

    ``marks`` gives the threshold chosen for some of the names; the legend then says the score there.
    Raises InputError if there is no curve, one has another shape, or a mark is of no curve or
    outside 0..255.
    """
    marks = marks or {}
    if not curves or any(np.shape(curve) != (256,) for curve in curves.values()):
        shapes = {name: np.shape(curve) for name, curve in curves.items()}
        raise InputError(f"expected curves of shape (256,), one value for each threshold; got {shapes}")
    if wrong := {name: mark for name, mark in marks.items() if name not in curves or not 0 <= mark <= 255}:
        raise InputError(f"expected marks from 0 to 255 for curves among {sorted(curves)}; got {wrong}")
    figure = _figure(8.0, 3.8)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        color, style = _LINES[index % len(_LINES)], _STYLES[index // len(_LINES) % len(_STYLES)]
        label = f"{name}\n{curve[marks[name]]:.3f} at {marks[name]}" if name in marks else name
        axes.plot(curve, style, color=color, linewidth=2, label=label)
        if name in marks:
            at, height = marks[name], curve[marks[name]]
            axes.plot([at, at], [0, height], ":", color=color, linewidth=1)
            axes.plot([at], [height], "o", color=color, markeredgecolor=PAPER, markersize=8)
    _finish(axes, "threshold", ylabel)
    axes.set_xlim(0, 255)
    axes.set_xticks([*range(0, 255, 32), 255])
    axes.set_ylim(bottom=0)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _render(figure)


def plot_scatter(points: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str, ylabel: str) -> Image:
    """Named points with their intervals, for measures in [0, 1].

    Each point is (x, y), and each of these (value, low, high), low and high the ends of its interval. Raises
    InputError for no point, or values that are not low <= value <= high.
    """
    spreads = [spread for point in points.values() for spread in point]
    if not spreads or any(len(spread) != 3 or not spread[1] <= spread[0] <= spread[2] for spread in spreads):
        raise InputError(f"expected points of (value, low, high) along each axis, in order; got {dict(points)}")
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for index, (name, ((x, left, right), (y, bottom, top))) in enumerate(points.items()):
        color = _LINES[index % len(_LINES)]
        marker = "osD^v"[index // len(_LINES) % 5]
        axes.plot([left, right], [y, y], color=color, linewidth=1)
        axes.plot([x, x], [bottom, top], color=color, linewidth=1)
        axes.plot([x], [y], marker, color=color, markeredgecolor=PAPER, markersize=8, label=name)
    _finish(axes, xlabel, ylabel)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _render(figure)


def plot_heat_map(values: ArrayLike, rows: Sequence[str], columns: Sequence[str], *, label: str) -> Image:
    """A table of numbers (rows, columns), each cell in the colour of its value, brighter for higher ones.

    Raises InputError for another shape, no cell, or numbers that are not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.shape != (len(rows), len(columns)) or not table.size or not np.isfinite(table).all():
        raise InputError(f"expected finite numbers ({len(rows)}, {len(columns)}), at least one; got {table.shape}")
    figure = _figure(0.62 * len(columns) + 2.8, 0.42 * len(rows) + 1.8)
    axes = figure.subplots()
    drawn = axes.imshow(table, cmap="cividis", aspect="auto")
    middle = (table.min() + table.max()) / 2
    for (row, column), value in np.ndenumerate(table):
        tone = INK if value > middle else "white"
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=tone, fontsize=9)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    _finish(axes, "", "")
    axes.grid(False)
    bar = figure.colorbar(drawn, ax=axes, label=label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    return _render(figure)


def plot_kernels(image: Image, kernels: Sequence[NDArray[np.floating]]) -> Image:
    """Involution kernels as heat maps beside the image: a row for each layer, a column for each group.

    ``kernels`` holds for each layer float (groups, h, w): at every pixel one number of either sign, such as the sum of
    the weights that the pixel's surroundings are multiplied with; 0 is white. Raises InputError for no layer or other
    shapes.
    """
    check_image(image)
    if not kernels or any(maps.ndim != 3 or not maps.size for maps in kernels):
        raise InputError(f"expected kernels (groups, h, w) for each layer; got {[maps.shape for maps in kernels]}")
    columns = 1 + max(map(len, kernels))
    figure = _figure(2.6 * columns, 2.4 * len(kernels))
    panels = figure.subplots(len(kernels), columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    panels[0, 0].imshow(image)
    panels[0, 0].set_title("image", color=INK, fontsize=9)
    for layer, (row, maps) in enumerate(zip(panels, kernels, strict=True), 1):
        limit = float(np.abs(maps).max()) or 1.0
        for group, (axes, values) in enumerate(zip(row[1:], maps, strict=False), 1):
            drawn = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_title(f"layer {layer}, group {group}", color=INK, fontsize=9)
        bar = figure.colorbar(drawn, ax=row[len(maps)])
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    return _render(figure)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, facecolor=PAPER, layout="constrained")


def _finish(axes: "Axes", xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)


def _render(figure: "Figure") -> Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; the plot is still of use.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    rows, columns = np.nonzero((drawn != 255).any(axis=2))
    margin = _DPI // 10
    content = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return np.pad(content, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
