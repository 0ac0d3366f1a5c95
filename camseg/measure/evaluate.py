"""A folder of one method's maps, or of masks, against true masks: scores, curves and the best threshold.

The headline of every score is its mean per image, over the images whose true mask is not empty. Images with an
empty truth are reported apart: there a prediction is right (Dice 1) when it is empty too, and wrong (0) otherwise.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import dequantise
from camseg.base.errors import CamsegError, EvaluationError
from camseg.base.progress import Progress, silent
from camseg.base.settings import from_json
from camseg.data.images import read_levels, read_mask_and_void
from camseg.data.mask_settings import MaskReading
from camseg.masks.settings import MaskSettings, Threshold, parse_threshold
from camseg.masks.threshold import cam_to_mask
from camseg.measure.evaluate_report import Evaluation
from camseg.measure.metrics import (
    Counts,
    binary_cross_entropy,
    bootstrap_interval,
    known_pixels,
    mask_counts,
    threshold_counts,
)
from camseg.measure.pairs import Pair, first_names, match_masks
from camseg.measure.settings import EvaluateSettings
from camseg.measure.tally import MEASURES, Cut, Tally, level_text, measure_counts
from camseg.runs.corrections import decided_masks, stale_line, summarise
from camseg.runs.lineage import lineage

NOT_RECORDED = "not recorded"
"""``chosen_on`` of predictions that are masks already."""


def evaluate_folder(
    predictions: Path | str,
    masks: Path | str,
    *,
    thresholds: Sequence[str | Path | float | Threshold] = EvaluateSettings.thresholds,
    reading: MaskReading | None = None,
    draw: int | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = EvaluateSettings.seed,
    corrected: bool = EvaluateSettings.corrected,
    progress: Progress = silent,
) -> Evaluation:
    """Score a folder of one method's 8-bit maps, or of masks, against a folder of true masks.

    Files are matched by relative path without suffix. Every true mask needs a prediction, with one exception: where
    a manifest says that an image was processed and the class was no target of it, its map counts as zero. One image
    is held at a time. thresholds: in the grammar of ``camseg masks``, or threshold files; reading: which class of the
    true masks counts, where they hold several; draw: how many of the true masks with an object, drawn by ``seed``,
    choose the best level, default all; confidence, resamples, seed: of the bootstrap intervals; corrected: whether a
    person's masks take the place of the machine's. Void pixels of the true masks take part in no score. Where ``masks``
    is an output folder with corrections, the masks that a person vouches for are the true ones.

    Raises EvaluationError when predictions are missing, of another size or class numbers, or when there are fewer masks
    than are to be drawn, ThresholdError for a threshold outside the grammar, ImageError for a file that cannot be read,
    or a true mask that is none.
    """
    predictions, masks = Path(predictions), Path(masks)
    cuts = list(dict.fromkeys(parse_threshold(one) for one in thresholds))
    decided = decided_masks(predictions) if corrected else {}
    pairs, warnings = match_masks(predictions, masks, decided)
    object_level = _object_level(predictions, [pair.prediction for pair in pairs if pair.prediction])
    already_masks = object_level is not None
    labels = [_recorded(predictions)] if already_masks else [_label(cut) for cut in cuts]
    if already_masks and draw is not None:
        raise EvaluationError(f"expected maps to choose a threshold by drawn masks; {predictions} holds masks already")
    overall = Tally(len(labels))
    classes: dict[str, Tally] = defaultdict(lambda: Tally(len(labels)))
    rows: list[dict[str, object]] = []
    other_size: list[str] = []
    all_void = 0
    for pair in progress(pairs, len(pairs), "evaluate"):
        truth, void = read_mask_and_void(pair.mask, reading)
        levels = read_levels(pair.prediction) if pair.prediction else np.zeros(truth.shape, np.uint8)
        if object_level is not None:
            levels = np.where(levels == object_level, np.uint8(255), np.uint8(0))
        if levels.shape != truth.shape:
            other_size.append(f"{pair.name} ({_size(levels)} against {_size(truth)})")
            continue
        if void.all():
            all_void += 1
            continue
        true = known_pixels(truth, void)
        counts = threshold_counts(known_pixels(levels, void), true)
        sweep, cross_entropy = measure_counts(counts), binary_cross_entropy(counts)
        # Thresholds that follow from a map see all of it, void or not.
        cut_masks = [levels > 127] if already_masks else [cam_to_mask(dequantise(levels), cut) for cut in cuts]
        cut_scores = [measure_counts(mask_counts(known_pixels(mask, void), true)) for mask in cut_masks]
        for tally in (overall, classes[pair.class_name]):
            tally.add(pair.name, counts.actual == 0, sweep, cut_scores, cross_entropy)
        row = _row(pair, counts, float(sweep[0].mean()), cross_entropy, void)
        for label, scores in zip(labels, cut_scores, strict=True):
            row |= {f"{name} at {label.threshold}": one for name, one in zip(MEASURES, scores.tolist(), strict=True)}
        rows.append(row)
    if other_size:
        raise EvaluationError(
            f"expected predictions of the size of their true masks; {len(other_size)} differ (width x height): "
            f"{first_names(other_size)}; predict from the images that the masks belong to"
        )
    if all_void:
        warnings += (f"{all_void} true masks are void everywhere and were left out",)
    if voids := sum(row["void_pixels"] != 0 for row in rows):
        warnings += (f"{voids} true masks have void pixels, which take part in no score",)
    spoken = [pair.decided for pair in pairs if pair.decided is not None]
    if line := stale_line(spoken, predictions):
        warnings += (line,)
    classes.pop("", None)
    interval = partial(bootstrap_interval, confidence=confidence, resamples=resamples, seed=seed)
    drawn = None if draw is None else _draw(overall.names, draw, seed)
    return Evaluation(
        predictions=str(predictions),
        masks=str(masks),
        kind="masks" if already_masks else "maps",
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        drawn=drawn,
        overall=overall.scores(labels, interval, already_masks, drawn),
        classes={name: tally.scores(labels, interval, already_masks, drawn) for name, tally in sorted(classes.items())},
        images=tuple(rows),
        corrections=summarise(spoken),
        warnings=warnings,
    )


def _row(
    pair: Pair, counts: Counts, mean_dice: float, cross_entropy: float, void: NDArray[np.bool_]
) -> dict[str, object]:
    """What a CSV says of one image, but for the scores at thresholds."""
    return {
        "name": pair.name,
        "class": pair.class_name,
        "pixels": counts.pixels,
        "true_pixels": counts.actual,
        "void_pixels": int(np.count_nonzero(void)),
        "counted_as_zero": pair.prediction is None,
        "mean_dice": mean_dice,
        "binary_cross_entropy": cross_entropy,
    }


def _recorded(predictions: Path) -> Cut:
    """The threshold that made masks, by the manifests of the commands that they came through."""
    for step in lineage(predictions):
        chain = step.settings.get("masks")
        asked = (chain if isinstance(chain, dict) else step.settings).get("threshold")
        if asked is not None:
            try:
                return _label(from_json(MaskSettings, {"threshold": asked}).threshold)
            except CamsegError:
                break  # a file that is there no more
    return Cut(threshold="none", chosen_on=NOT_RECORDED)


def _draw(names: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """So many of the names at random, the same whatever their order."""
    if count > len(names):
        raise EvaluationError(
            f"expected at least {count} true masks that hold an object, to draw as many; there are {len(names)}"
        )
    ordered = sorted(names)
    places = np.random.default_rng(seed).choice(len(ordered), count, replace=False)
    return tuple(ordered[place] for place in sorted(places))


def _object_level(folder: Path, predictions: Sequence[Path]) -> int | None:
    """The level of the object where all predictions are masks, of 0 and 255 or of 0 and 1; None for maps.

    In a folder of maps the search ends at the first with a level of another kind. Raises EvaluationError for
    predictions of 0 and one low number each: class numbers, which as maps would nearly be zero.
    """
    seen: set[int] = set()
    for path in predictions:
        levels = {int(level) for level in np.flatnonzero(np.bincount(read_levels(path).ravel(), minlength=256))}
        seen |= levels
        if len(levels | {0}) > 2 or not (max(levels) < 128 or max(levels) == 255):
            return None
    if seen <= {0, 255}:
        return 255
    if seen <= {0, 1}:
        return 1
    if max(seen) >= 128:
        return None
    raise EvaluationError(
        f"expected maps, or masks of 0 and 255, in {folder}; its files hold 0 and one of the levels "
        f"{', '.join(str(level) for level in sorted(seen - {0}))}, as class numbers do; scale masks to 255"
    )


def _label(threshold: Threshold) -> Cut:
    """The text of a threshold, and what chose it."""
    source, level = threshold.source, int(threshold.value)
    if source is None:
        return Cut(threshold=str(threshold), chosen_on=None)
    chosen_on = f"{source.name} ({source.masks} masks)"
    return Cut(threshold=level_text(level), chosen_on=chosen_on, level=level, file=source.path, sha256=source.sha256)


def _size(pixels: NDArray[Any]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
