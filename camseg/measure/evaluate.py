"""A folder of one method's maps, or of masks, against true masks: scores, curves and the best threshold.

The headline of every score is its mean per image, over the images whose true mask is not empty. Images with an
empty truth are reported apart: there a prediction is right (Dice 1) when it is empty too, and wrong (0) otherwise.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Image, dequantise
from camseg.base.errors import CamsegError, EvaluationError
from camseg.base.progress import Progress, silent
from camseg.base.settings import from_json
from camseg.data.images import by_relative_name, passed_over_line, read_levels, read_mask_and_void, relative_name
from camseg.data.mask_settings import MaskReading
from camseg.data.opening import count_frames
from camseg.masks.settings import MaskSettings, Threshold, parse_threshold, save_threshold
from camseg.masks.threshold import cam_to_mask
from camseg.measure.figures import plot_threshold_curves
from camseg.measure.metrics import (
    THRESHOLDS,
    Counts,
    binary_cross_entropy,
    bootstrap_interval,
    dice,
    iou,
    known_pixels,
    mask_counts,
    pixel_accuracy,
    precision,
    recall,
    threshold_counts,
)
from camseg.measure.settings import EvaluateSettings
from camseg.runs.corrections import (
    CORRECTIONS,
    CorrectionSummary,
    Decided,
    decided_masks,
    find_machine_masks,
    stale_line,
    summarise,
)
from camseg.runs.lineage import lineage, network_records
from camseg.runs.output import prediction_root

MEASURES = {"dice": dice, "iou": iou, "precision": precision, "recall": recall, "pixel_accuracy": pixel_accuracy}
"""Of a mask against the true one; the names are those of the fields and of the JSON."""
THESE_MASKS = "these masks"
"""``chosen_on`` of a threshold that was chosen on the very masks it is scored on: an upper bound, no estimate."""
NOT_RECORDED = "not recorded"
"""``chosen_on`` of predictions that are masks already."""


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


@dataclass(frozen=True, kw_only=True)
class _Pair:
    name: str
    class_name: str  # the first folder of the name; "" for files directly in the root
    mask: Path
    prediction: Path | None  # None: the class was no target of the image, or a person says that it is not there
    decided: Decided | None = None  # what a person said of it


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """How a threshold is called, and where it comes from."""

    threshold: str
    chosen_on: str | None
    level: int | None = None
    file: str | None = None
    sha256: str | None = None


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
    than are to be drawn, ThresholdError for a
    threshold outside the grammar, ImageError for a file that cannot be read, or a true mask that is none.
    """
    predictions, masks = Path(predictions), Path(masks)
    cuts = list(dict.fromkeys(parse_threshold(one) for one in thresholds))
    decided = decided_masks(predictions) if corrected else {}
    pairs, warnings = _match(predictions, masks, decided)
    object_level = _object_level(predictions, [pair.prediction for pair in pairs if pair.prediction])
    already_masks = object_level is not None
    labels = [_recorded(predictions)] if already_masks else [_label(cut) for cut in cuts]
    if already_masks and draw is not None:
        raise EvaluationError(f"expected maps to choose a threshold by drawn masks; {predictions} holds masks already")
    overall = _Tally(len(labels))
    classes: dict[str, _Tally] = defaultdict(lambda: _Tally(len(labels)))
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
        sweep, cross_entropy = _measure(counts), binary_cross_entropy(counts)
        # Thresholds that follow from a map see all of it, void or not.
        cut_masks = [levels > 127] if already_masks else [cam_to_mask(dequantise(levels), cut) for cut in cuts]
        cut_scores = [_measure(mask_counts(known_pixels(mask, void), true)) for mask in cut_masks]
        for tally in (overall, classes[pair.class_name]):
            tally.add(pair.name, counts.actual == 0, sweep, cut_scores, cross_entropy)
        row: dict[str, object] = {
            "name": pair.name,
            "class": pair.class_name,
            "pixels": counts.pixels,
            "true_pixels": counts.actual,
            "void_pixels": int(np.count_nonzero(void)),
            "counted_as_zero": pair.prediction is None,
            "mean_dice": float(sweep[0].mean()),
            "binary_cross_entropy": cross_entropy,
        }
        for label, scores in zip(labels, cut_scores, strict=True):
            row |= {
                f"{measure} at {label.threshold}": score
                for measure, score in zip(MEASURES, scores.tolist(), strict=True)
            }
        rows.append(row)
    if other_size:
        raise EvaluationError(
            f"expected predictions of the size of their true masks; {len(other_size)} differ (width x height): "
            f"{_first(other_size)}; predict from the images that the masks belong to"
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


class _Tally:
    """Sums over the images of one class, with a non-empty truth at index 0 and with an empty one at index 1."""

    def __init__(self, thresholds: int) -> None:
        self.names: list[str] = []  # of the images with an object, as are the two lists below
        self.sweeps: list[NDArray[np.float32]] = []  # (measures, 256) each
        self.cut_dices: list[list[float]] = []  # one number for each threshold
        self.mean_dices: tuple[list[float], list[float]] = ([], [])
        self.cross_entropy = np.zeros(2)
        self.sweep = np.zeros((2, len(MEASURES), THRESHOLDS))
        self.cuts = np.zeros((2, thresholds, len(MEASURES)))

    def add(
        self, name: str, empty: bool, sweep: NDArray[Any], cuts: Sequence[NDArray[Any]], cross_entropy: float
    ) -> None:
        index = int(empty)
        if not empty:
            self.names.append(name)
            self.sweeps.append(sweep.astype(np.float32))
            self.cut_dices.append([float(scores[0]) for scores in cuts])
        self.mean_dices[index].append(float(sweep[0].mean()))
        self.cross_entropy[index] += cross_entropy
        self.sweep[index] += sweep
        for k, scores in enumerate(cuts):
            self.cuts[index, k] += scores

    def scores(
        self,
        labels: Sequence[_Cut],
        interval: Callable[[Sequence[float]], tuple[float, float]],
        are_masks: bool,
        drawn: Sequence[str] | None,
    ) -> Scores:
        filled, empty = map(len, self.mean_dices)

        def at(cut: _Cut, sums: NDArray[Any], kept: float, dices: Sequence[float]) -> MaskScores:
            """``sums``: (measures,) over the images whose Dice are given; ``kept``: that of the empty truths."""
            count = len(dices)
            means: dict[str, Any] = {name: float(sums[i] / count) if count else None for i, name in enumerate(MEASURES)}
            return MaskScores(
                **asdict(cut),
                images=count,
                dice_interval=interval(dices) if count else None,
                empty_kept=float(kept / empty) if empty else None,
                **means,
            )

        chosen_on, choosing = THESE_MASKS, set(range(filled))
        if drawn is not None:
            choosing = {place for place, name in enumerate(self.names) if name in set(drawn)}
            chosen_on = f"{len(choosing)} of {THESE_MASKS}"
        level, best = 0, None
        if choosing and not are_masks:
            curves = self.sweep[0, 0] if drawn is None else sum(self.sweeps[place][0] for place in sorted(choosing))
            level = int(np.argmax(curves))
            scored = [place for place in range(filled) if drawn is None or place not in choosing] or sorted(choosing)
            sums = self.sweep[0, :, level]
            if len(scored) < filled:
                sums = np.sum([self.sweeps[place][:, level] for place in scored], axis=0, dtype=np.float64)
                chosen_on = f"{chosen_on}, not those scored"
            cut = _Cut(threshold=_level_text(level), chosen_on=chosen_on, level=level)
            best = at(cut, sums, self.sweep[1, 0, level], [float(self.sweeps[place][0, level]) for place in scored])
        return Scores(
            images=filled,
            empty_images=empty,
            mean_dice=float(np.mean(self.mean_dices[0])) if filled else None,
            mean_dice_interval=interval(self.mean_dices[0]) if filled else None,
            mean_dice_of_empty=float(np.mean(self.mean_dices[1])) if empty else None,
            binary_cross_entropy=float(self.cross_entropy[0] / filled) if filled else None,
            dice_curve=tuple((self.sweep[0, 0] / filled).tolist()) if filled else (),
            iou_curve=tuple((self.sweep[0, 1] / filled).tolist()) if filled else (),
            best_level=None if best is None else level,
            best=best,
            thresholds=tuple(
                at(label, self.cuts[0, k], self.cuts[1, k, 0], [dices[k] for dices in self.cut_dices])
                for k, label in enumerate(labels)
            ),
        )


def _match(predictions: Path, masks: Path, decided: Mapping[Path, Decided]) -> tuple[list[_Pair], tuple[str, ...]]:
    """Every true mask with its prediction, and what the reader of the scores must know about the rest."""
    found, true = find_machine_masks(predictions), find_machine_masks(masks)
    if true.failures:
        raise EvaluationError(f"the folder of true masks {true.failures[0][0]} cannot be listed: {true.failures[0][1]}")
    truths, files = _vouched(masks) or by_relative_name(true), by_relative_name(found)
    root = found.root.absolute()
    said = {relative_name(path, root): one for path, one in decided.items() if path.is_relative_to(root)}
    files |= {name: one.file for name, one in said.items() if one.drawn and one.file is not None}
    processed, targets = _read_manifest(predictions)
    pairs, missing = [], []
    gone = {name for name, one in said.items() if one.decision == "empty"}
    for name, mask in truths.items():
        class_name, _, image = name.partition("/") if "/" in name else ("", "", name)
        if name not in files and (image not in processed or (image, class_name) in targets):
            missing.append(name)
        file = None if name in gone else files.get(name)
        pairs.append(_Pair(name=name, class_name=class_name, mask=mask, prediction=file, decided=said.get(name)))
    if len(missing) == len(truths):
        raise EvaluationError(
            f"{predictions} and {masks} have nothing in common: expected predictions named like {missing[0]}; got "
            f"{_first(list(files))}; name the folder of one method's maps, or of masks"
        )
    if missing:
        raise EvaluationError(
            f"expected a prediction in {predictions} for each of the {len(truths)} true masks; {len(missing)} "
            f"are missing: {_first(missing)}; predict these images too, or evaluate against the masks of a part"
        )
    zero = sum(pair.prediction is None and pair.decided is None for pair in pairs)
    unused = len(files.keys() - truths.keys())
    notes = (
        (*_follow_labels(predictions, truths),),
        (unused, "predictions have no true mask and were left out"),
        (zero, "true masks of classes that were not found in the image were counted against a map of zeros"),
        (len(found.failures), "folders of predictions could not be listed"),
        (_count_stacks(truths.values()), "true masks hold several pages, of which the first was taken"),
        (_count_stacks(files[name] for name in truths if name in files), "predictions hold several pages, likewise"),
    )
    passed_over = (
        f"{line}, in {folder}"
        for folder, files_found in ((predictions, found), (masks, true))
        if (line := passed_over_line(files_found.passed_over))
    )
    return pairs, (*(f"{count} {note}" for count, note in notes if count), *passed_over)


def _vouched(masks: Path) -> dict[str, Path]:
    """The masks of an output folder that a person accepted, edited or emptied; {} where there are no corrections."""
    if not (masks / CORRECTIONS).is_file():
        return {}
    root = prediction_root(masks)
    found = {
        relative_name(path, root.absolute()): one.file
        for path, one in decided_masks(root).items()
        if one.vouched and one.file is not None
    }
    if not found:
        raise EvaluationError(f"nobody vouches for a mask of {masks}; name true masks, or accept and edit some there")
    return found


def _read_manifest(predictions: Path) -> tuple[set[str], set[tuple[str, str | None]]]:
    """The images that were processed, and the (image, class) targets, by the network's manifest; empty without one."""
    records = network_records(predictions)
    return (
        {record.name for record in records if not record.failed},
        {(record.name, record.class_name) for record in records},
    )


def _follow_labels(predictions: Path, truths: Iterable[str]) -> tuple[int, str]:
    """How many true masks are of images whose labels decided what is predicted of them, and what that means."""
    steps, records = lineage(predictions), network_records(predictions)
    step = steps[-1] if steps else None
    targets = [] if step is None else step.settings.get("targets", [])
    labelled: set[str] = set()
    segmented = step is not None and step.command == "segment"
    if targets in ([], ["label"]) and not segmented:
        labelled = {record.name for record in records if record.labels is not None}
    elif targets != ["predicted"]:  # classes by name: labels decide only where none of them can be
        labelled = {record.name for record in records if (record.empty or "").startswith("labelled")}
    count = sum(name in labelled or name.partition("/")[2] in labelled for name in truths)
    if segmented:
        return (
            count,
            "predictions follow the labels of their images, which exclude an object; --no-gate asks the network alone",
        )
    return count, (
        "predictions follow the labels of their images (class folders or a CSV), not the classifier: empty kept "
        "measures those labels; --target predicted asks the classifier"
    )


def _recorded(predictions: Path) -> _Cut:
    """The threshold that made masks, by the manifests of the commands that they came through."""
    for step in lineage(predictions):
        chain = step.settings.get("masks")
        asked = (chain if isinstance(chain, dict) else step.settings).get("threshold")
        if asked is not None:
            try:
                return _label(from_json(MaskSettings, {"threshold": asked}).threshold)
            except CamsegError:
                break  # a file that is there no more
    return _Cut(threshold="none", chosen_on=NOT_RECORDED)


def _draw(names: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """So many of the names at random, the same whatever their order."""
    if count > len(names):
        raise EvaluationError(
            f"expected at least {count} true masks that hold an object, to draw as many; there are {len(names)}"
        )
    ordered = sorted(names)
    places = np.random.default_rng(seed).choice(len(ordered), count, replace=False)
    return tuple(ordered[place] for place in sorted(places))


def _measure(counts: Counts) -> NDArray[np.float64]:
    """(measures, thresholds of the counts)."""
    return np.stack([measure(counts) for measure in MEASURES.values()])


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


def _count_stacks(files: Iterable[Path]) -> int:
    """How many files hold several pages, of those whose suffix allows it."""
    several = (".apng", ".gif", ".tif", ".tiff", ".webp")
    return sum(count_frames(path) > 1 for path in files if path.suffix.lower() in several)


def _label(threshold: Threshold) -> _Cut:
    """The text of a threshold, and what chose it."""
    source, level = threshold.source, int(threshold.value)
    if source is None:
        return _Cut(threshold=str(threshold), chosen_on=None)
    chosen_on = f"{source.name} ({source.masks} masks)"
    return _Cut(threshold=_level_text(level), chosen_on=chosen_on, level=level, file=source.path, sha256=source.sha256)


def _level_text(level: int) -> str:
    # Half a level above it, so that three digits and either comparison give the same mask.
    return f"{(level + 0.5) / 255:.3f}"


def _size(pixels: NDArray[Any]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _first(names: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return _number(value) if interval is None else f"{_number(value)} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
