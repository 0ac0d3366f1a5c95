"""What a training reports: scores of the validation and test images, and the files that show them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from camseg.base.files import write_csv, write_json
from camseg.classify.classifier import Classifier
from camseg.data.images import write_image
from camseg.measure.figures import plot_confusion, plot_history, plot_reliability
from camseg.measure.metrics import classification_metrics, expected_calibration_error, reliability


def scores(classifier: Classifier, logits: Tensor, truth: NDArray[Any]) -> dict[str, Any]:
    """``classification_metrics`` of logits (N, classes) on the CPU and targets as ``Dataset.targets`` gives them."""
    probabilities = classifier.probabilities(logits).numpy()
    return classification_metrics(truth, probabilities, classifier.classes, classifier.multi_label)


def reliability_of(classifier: Classifier, logits: Tensor, truth: NDArray[Any]) -> NDArray[np.float64]:
    """``reliability`` of the same."""
    return reliability(truth, classifier.probabilities(logits).numpy(), classifier.multi_label)


def calibration_error(classifier: Classifier, logits: Tensor, truth: NDArray[Any]) -> float:
    """``expected_calibration_error`` of the same."""
    return expected_calibration_error(reliability_of(classifier, logits, truth))


def write_reports(
    out: Path,
    metrics: dict[str, Any],
    history: Sequence[dict[str, float]],
    tables: Mapping[str, NDArray[np.float64]],
    exclusive: Sequence[str] | None = None,
) -> None:
    """Write a run's ``history.csv``, ``metrics.json`` and pictures; ``tables``: reliabilities by what they are of.

    ``exclusive``: the classes of the ``confusion`` in the metrics, where that is to be drawn.
    """
    write_csv(out / "history.csv", list(history[0]), [list(row.values()) for row in history])
    write_image(out / "curves.png", plot_history(history))
    if any(table.any() for table in tables.values()):
        write_image(out / "reliability.png", plot_reliability(tables))
    if exclusive is not None:
        write_image(out / "confusion.png", plot_confusion(np.array(metrics["confusion"]), exclusive))
    # Last: a run is finished when its metrics are there.
    write_json(out / "metrics.json", metrics)
