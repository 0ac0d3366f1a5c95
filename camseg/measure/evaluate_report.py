"""What an evaluation found: its scores, their table and curves, and the threshold that they choose."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from camseg.base.arrays import Image
from camseg.base.errors import EvaluationError
from camseg.masks.settings import save_threshold
from camseg.measure.figures import plot_threshold_curves
from camseg.runs.corrections import CorrectionSummary


@dataclass(frozen=True, kw_only=True)
class MaskScores:
    """The masks of one threshold; means per image over the images whose truth is not empty."""

    threshold: str
    """In the grammar of ``camseg masks``; of masks what their manifest tells, or ``none``."""
    chosen_on: str | None
    """The set of true masks that chose the threshold; ``these masks`` for the best one, or how many were drawn of them;
    None: no mask was used."""
    level: int | None
    """The level, of 0..255, where a threshold file or these masks chose it."""
    file: str | None
    """The threshold file that it came from."""
    sha256: str | None
    """Of that file, when it was read."""
    images: int
    """Images that the means are over."""
    dice: float | None
    """None where every truth is empty, here and below."""
    dice_interval: tuple[float, float] | None
    """Its bootstrap interval, images drawn with replacement."""
    iou: float | None
    """Intersection over union."""
    precision: float | None
    """0 for an empty mask."""
    recall: float | None
    """The share of the true pixels that was found."""
    pixel_accuracy: float | None
    """The share of all pixels that are right."""
    empty_kept: float | None
    """Of the images with an empty truth, the share whose mask is empty too; None without such images."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One class's scores, or those of all images."""

    images: int
    """Images whose truth is not empty: the headline is the mean over these."""
    empty_images: int
    """Images whose truth is empty."""
    mean_dice: float | None
    """Mean per image of ``metrics.mean_dice``, the mean over the thresholds 0..255 (equation 9)."""
    mean_dice_interval: tuple[float, float] | None
    """Its bootstrap interval, images drawn with replacement."""
    mean_dice_of_empty: float | None
    """The same mean over the images with an empty truth."""
    binary_cross_entropy: float | None
    """Of the map as a probability per pixel, in nats; mean per image."""
    dice_curve: tuple[float, ...]
    """Mean Dice per image of the map binarised at > t of 255, for t = 0..255; empty where every truth is."""
    iou_curve: tuple[float, ...]
    """The same for IoU."""
    best_level: int | None
    """The t with the highest Dice, in ``dice_curve`` or on the drawn masks; None where there is no curve, none was
    drawn, or the predictions are masks."""
    best: MaskScores | None
    """The masks at that level: chosen on the very masks it is scored on, so no estimate for other images; where masks
    were drawn to choose it, scored on the others, if there are any."""
    thresholds: tuple[MaskScores, ...]
    """One entry for each threshold that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What ``evaluate_folder`` found."""

    predictions: str
    """The folder of predictions."""
    masks: str
    """The folder of true masks."""
    kind: str
    """``maps``, or ``masks`` where every prediction holds only 0 and 255: then no threshold was applied."""
    confidence: float
    """Of the bootstrap intervals."""
    resamples: int
    """Of the bootstrap intervals."""
    seed: int
    """Of all random choices."""
    drawn: tuple[str, ...] | None
    """The names of the true masks that were drawn to choose the best level; None: all chose it."""
    overall: Scores
    """All images."""
    classes: dict[str, Scores]
    """By class, the first folder of the relative path; images directly in the root count under ``overall`` only."""
    images: tuple[dict[str, object], ...]
    """One flat row per image, fit for a CSV: name, class, pixels, truth, mean-Dice, and every measure per threshold."""
    corrections: CorrectionSummary | None
    """Of the masks that a person looked at: how many, and what time they took; None where there are none."""
    warnings: tuple[str, ...]
    """What a reader of the scores must know: predictions without a true mask, maps counted as zero, void pixels."""

    def to_dict(self) -> dict[str, object]:
        """Everything as JSON-ready dicts and lists."""
        values: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return values


def save_best_threshold(path: Path | str, evaluation: Evaluation, *, name: str) -> None:
    """Write the level with the highest mean Dice as a threshold file, which says that the set ``name`` chose it.

    Raises EvaluationError where there is nothing to choose: the predictions are masks, or every truth is empty.
    """
    scores = evaluation.overall
    if scores.best is None or scores.best_level is None:
        found = "masks already" if scores.images else f"maps, but all {scores.empty_images} true masks are empty"
        raise EvaluationError(
            f"expected maps and true masks to choose a threshold; {evaluation.predictions} holds {found}"
        )
    best, drawn = scores.best, evaluation.drawn
    reached = {"dice": best.dice, "iou": best.iou}
    others = drawn is not None and best.images < scores.images
    details: dict[str, object] = {
        "scored_on": f"the {best.images} {'other masks' if others else 'masks that chose it'}",
        "dice_interval": best.dice_interval,
        "confidence": evaluation.confidence,
        "resamples": evaluation.resamples,
        "seed": evaluation.seed,
    }
    if drawn is not None:
        details |= {"drawn": drawn, "drawn_from": scores.images}
    save_threshold(
        path,
        scores.best_level,
        name=name,
        masks=scores.images if drawn is None else len(drawn),
        scores={measure: score for measure, score in reached.items() if score is not None},
        details=details,
    )


def evaluation_table(evaluation: Evaluation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The scores as a table: its columns, and one row of strings per class and threshold, all images first."""
    columns = ("class", "images", "mean-Dice", "threshold", "chosen on")
    measures = ("Dice", "IoU", "precision", "recall", "accuracy", "empty kept")
    rows = []
    classes = [(name, scores) for name, scores in evaluation.classes.items() if scores != evaluation.overall]
    for name, scores in [("all", evaluation.overall), *classes]:
        mean_dice = _with_interval(scores.mean_dice, scores.mean_dice_interval)
        for cut in [*scores.thresholds, *([scores.best] if scores.best else [])]:
            empty = f"{cut.empty_kept:.0%} of {scores.empty_images}" if scores.empty_images else "-"
            numbers = map(_number, (cut.iou, cut.precision, cut.recall, cut.pixel_accuracy))
            chosen_on = cut.chosen_on or "no mask"
            sure = _with_interval(cut.dice, cut.dice_interval)
            rows.append((name, str(cut.images), mean_dice, cut.threshold, chosen_on, sure, *numbers, empty))
    return columns + measures, rows


def evaluation_note(evaluation: Evaluation) -> str:
    """What the numbers in brackets are."""
    drawn = "" if evaluation.drawn is None else f"; {len(evaluation.drawn)} masks drawn by it choose the best threshold"
    return f"in brackets: {evaluation.confidence:.0%} bootstrap over images, seed {evaluation.seed}{drawn}"


def evaluation_plot(evaluation: Evaluation) -> Image:
    """Dice and IoU over the 256 thresholds, the best one marked; EvaluationError where there are no curves."""
    scores = evaluation.overall
    if not scores.dice_curve:
        raise EvaluationError(f"there is no curve to plot: every true mask in {evaluation.masks} is empty")
    curves = {"Dice": np.array(scores.dice_curve), "IoU": np.array(scores.iou_curve)}
    marks = {} if scores.best_level is None else {"Dice": scores.best_level}
    return plot_threshold_curves(curves, ylabel="mean per image", marks=marks)


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return _number(value) if interval is None else f"{_number(value)} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
