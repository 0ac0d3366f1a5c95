import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.measure.figures import plot_confusion, plot_history, plot_threshold_curves

HISTORY = [
    {"epoch": 1, "train_loss": 0.9, "val_loss": 0.8, "val_accuracy": 0.5, "val_macro_f1": 0.4, "lr": 1e-3},
    {"epoch": 2, "train_loss": 0.5, "val_loss": float("nan"), "val_accuracy": 0.7},
    {"epoch": 3, "train_loss": 0.3, "val_loss": 0.4, "val_accuracy": 0.9, "val_macro_f1": 0.9, "lr": 1e-3},
]
CURVES = {"layercam": np.linspace(0.5, 0, 256), "a $b$ 健康": np.linspace(0, 0.4, 256)}


@pytest.mark.parametrize("classes", [1, 2, 30, 60])
def test_plot_confusion_is_readable_at_any_number_of_classes(classes: int) -> None:
    matrix = np.diag(np.arange(classes)) + 1
    picture = plot_confusion(matrix, [f"$class_{index} of 健康 with a long name" for index in range(classes)])
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert 200 < max(picture.shape) < 4000


def test_plot_confusion_shows_the_share_of_the_row() -> None:
    """9 of 10 and 900 of 1000 look the same, and a class that never occurs stays pale."""
    picture = plot_confusion([[9, 1, 0], [100, 900, 0], [0, 0, 0]], ["a", "b", "c"])
    blues = 255 * np.array(matplotlib.colormaps["Blues"]([0.0, 0.1, 0.9]))[:, :3]
    empty, tenth, most = (np.sum((np.abs(picture - color) < 3).all(axis=2)) for color in blues)
    assert most == pytest.approx(empty * 2 / 5, rel=0.1)  # cells, less the pixels under the numbers
    assert tenth == pytest.approx(empty * 2 / 5, rel=0.1)


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], [{"val_loss": 1.0}], [{"accuracy": 0.5}]])
def test_plot_history_of_any_length_and_keys(history: list[dict[str, float]]) -> None:
    picture = plot_history(history)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert (picture != 255).any()


def test_plot_threshold_curves_shows_the_marks() -> None:
    plain = plot_threshold_curves(CURVES, ylabel="Dice")
    marked = plot_threshold_curves(CURVES, ylabel="Dice", marks={"layercam": 0, "a $b$ 健康": 255})
    assert plain.dtype == marked.dtype == np.uint8
    assert plain.shape != marked.shape or (plain != marked).any()


def test_plots_repeat_and_keep_nothing() -> None:
    settings = dict(matplotlib.rcParams)
    np.testing.assert_array_equal(plot_history(HISTORY), plot_history(HISTORY))
    assert dict(matplotlib.rcParams) == settings
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_history([]), "got 0 epochs"),
        (lambda: plot_history([{"epoch": 1, "lr": 0.1}]), "loss, accuracy, f1, dice or iou"),
        (lambda: plot_confusion([[1, 2]], ["a", "b"]), "shape \\(2, 2\\)"),
        (lambda: plot_confusion([[-1]], ["a"]), "0 or more"),
        (lambda: plot_confusion([], []), "expected counts"),
        (lambda: plot_threshold_curves({}, ylabel="Dice"), "shape \\(256,\\)"),
        (lambda: plot_threshold_curves({"a": np.zeros(10)}, ylabel="Dice"), "shape \\(256,\\)"),
        (lambda: plot_threshold_curves(CURVES, ylabel="Dice", marks={"b": 3}), "marks from 0 to 255"),
        (lambda: plot_threshold_curves(CURVES, ylabel="Dice", marks={"layercam": 256}), "marks from 0 to 255"),
    ],
)
def test_refuses_what_cannot_be_drawn(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
