"""How well a map or mask agrees with a true mask, and a classifier with true labels: counts first, formula second.

One histogram per image holds all that the 256 thresholds of an 8-bit map need; every formula below is a
function of such ``Counts``, vectorised over the thresholds. Where neither side marks anything, a prediction is
right and scores 1; any other 0/0 (the precision of an empty mask, the recall on an empty truth) scores 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Mask, check_cam, check_mask, check_same_size, quantise
from camseg.base.errors import InputError

THRESHOLDS = 256
"""An 8-bit map is binarised at > t for t = 0..255; the last of these masks is always empty."""
CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 before a logarithm is taken (Keras's epsilon)."""

_BLOCK = 1 << 20  # pixels, or bootstrap draws, that are worked on at once: bounds the memory


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Pixels counted against one true mask; the first two hold one number per threshold."""

    true_positives: NDArray[np.int64]
    """Pixels in both the prediction and the truth."""
    predicted: NDArray[np.int64]
    """Pixels in the prediction."""
    actual: int
    """Pixels in the truth."""
    pixels: int
    """Pixels in the image."""


def threshold_counts(levels: NDArray[np.uint8], mask: Mask) -> Counts:
    """Counts of an 8-bit map binarised at > t for every t = 0..255, from one histogram.

    levels: uint8 (H, W); mask: bool (H, W). The arrays of the result are int64 (256,).
    """
    if not isinstance(levels, np.ndarray) or levels.dtype != np.uint8 or levels.ndim != 2:
        raise InputError("expected the levels of a map, uint8 (H, W); arrays.quantise makes them of a float map")
    check_mask(mask)
    check_same_size(levels, mask, "map and true mask")
    flat_levels, flat_mask = levels.ravel(), mask.ravel()
    histogram = np.zeros(2 * THRESHOLDS, dtype=np.int64)
    for start in range(0, mask.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        histogram += np.bincount(flat_levels[block] + THRESHOLDS * flat_mask[block], minlength=2 * THRESHOLDS)
    by_truth = histogram.reshape(2, THRESHOLDS)  # (outside or inside the true mask, level)
    at_least = by_truth[:, ::-1].cumsum(axis=1)[:, ::-1]  # pixels of this level or more
    above = at_least - by_truth
    return Counts(true_positives=above[1], predicted=above.sum(axis=0), actual=int(at_least[1, 0]), pixels=mask.size)


def known_pixels(pixels: NDArray[Any], void: Mask | None) -> NDArray[Any]:
    """The pixels that take part in scores, (1, N): those that are not ``void``, bool (H, W); all (H, W) where none is.

    For a map and its true mask alike, before they are counted.
    """
    return pixels if void is None or not void.any() else pixels[~void][None]


def mask_counts(prediction: Mask, mask: Mask) -> Counts:
    """Counts of one predicted mask, bool (H, W), against the true one; the arrays of the result have no dimension."""
    check_mask(prediction)
    check_mask(mask)
    check_same_size(prediction, mask, "predicted and true mask")
    return Counts(
        true_positives=np.array(np.count_nonzero(prediction & mask), dtype=np.int64),
        predicted=np.array(np.count_nonzero(prediction), dtype=np.int64),
        actual=int(np.count_nonzero(mask)),
        pixels=mask.size,
    )


def dice(counts: Counts) -> NDArray[np.float64]:
    """2 |P and T| / (|P| + |T|), in [0, 1], per threshold; 1 where both are empty."""
    return _ratio(2 * counts.true_positives, counts.predicted + counts.actual, counts)


def iou(counts: Counts) -> NDArray[np.float64]:
    """|P and T| / |P or T|, in [0, 1], per threshold; 1 where both are empty."""
    return _ratio(counts.true_positives, counts.predicted + counts.actual - counts.true_positives, counts)


def precision(counts: Counts) -> NDArray[np.float64]:
    """|P and T| / |P|, in [0, 1], per threshold; 1 where both are empty, 0 where only P is."""
    return _ratio(counts.true_positives, counts.predicted, counts)


def recall(counts: Counts) -> NDArray[np.float64]:
    """|P and T| / |T|, in [0, 1], per threshold; 1 where both are empty, 0 where only T is."""
    return _ratio(counts.true_positives, np.full_like(counts.predicted, counts.actual), counts)


def pixel_accuracy(counts: Counts) -> NDArray[np.float64]:
    """The share of pixels on which prediction and truth agree, in [0, 1], per threshold."""
    wrong = counts.predicted + counts.actual - 2 * counts.true_positives
    return (counts.pixels - wrong) / counts.pixels


def binary_cross_entropy(counts: Counts) -> float:
    """Mean over the pixels of -log(p) inside and -log(1 - p) outside the true mask, in nats, with p = level / 255.

    counts: of ``threshold_counts``, whose steps from threshold to threshold are the map's histogram. p is clipped to
    [1e-7, 1 - 1e-7] as in Keras, so that a pixel which is wrong with certainty costs 16.1 and not infinity.
    """
    if counts.predicted.shape != (THRESHOLDS,):
        raise InputError("the cross-entropy of a map needs the counts of all 256 thresholds; use threshold_counts")
    inside = -np.diff(counts.true_positives, prepend=counts.actual)  # (256,) true pixels of each level
    outside = -np.diff(counts.predicted, prepend=counts.pixels) - inside
    p = np.clip(np.arange(THRESHOLDS) / 255.0, CLIP, 1.0 - CLIP)
    return float(-(inside @ np.log(p) + outside @ np.log1p(-p)) / counts.pixels)


def mean_dice(cam: Cam | NDArray[np.uint8], mask: Mask) -> float:
    """The mean over thresholds t = 0..255 of the Dice of the 8-bit map binarised at > t.

    cam: float (H, W) in [0, 1], or its levels, uint8 (H, W); mask: bool (H, W). A perfect map scores 255/256, since
    nothing is above 255; a zero map against an empty mask scores 1. Raises InputError for other arrays or sizes.
    Source: Guan and Loew, "A sneak attack on segmentation of medical images using deep neural network classifiers"
    (AIPR 2021, arXiv:2201.02771), equation 9.
    """
    is_levels = isinstance(cam, np.ndarray) and cam.dtype == np.uint8
    levels = cam.astype(np.uint8, copy=False) if is_levels else quantise(check_cam(cam))
    return float(dice(threshold_counts(levels, mask)).mean())


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.floating],
    *,
    groups: Sequence[object] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap's interval (low, high) of the mean of ``values``.

    groups: one label per value (a patient, say); whole groups are then drawn, as values of one group are no
    independent evidence. The same seed gives the same interval. Raises InputError without values, for lists of
    different length, or for a confidence outside (0, 1).
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or not 0.0 < confidence < 1.0 or resamples < 1:
        raise InputError(
            f"expected a list of at least one value, a confidence in (0, 1) and at least one resample; "
            f"got shape {sample.shape}, confidence {confidence} and {resamples} resamples"
        )
    if groups is not None and len(groups) != sample.size:
        raise InputError(f"expected one group per value; got {len(groups)} groups and {sample.size} values")
    number: dict[object, int] = {}  # without groups, every value is one
    group_of = [number.setdefault(group, len(number)) for group in (range(sample.size) if groups is None else groups)]
    sums, sizes = np.bincount(group_of, weights=sample), np.bincount(group_of)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BLOCK // sums.size)
    for start in range(0, resamples, step):
        drawn = generator.integers(sums.size, size=(min(step, resamples - start), sums.size))
        means[start : start + step] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


def overlapping_splits_interval(values: Sequence[float], share: float) -> tuple[float, float] | None:
    """The corrected resampled 95 % t-interval (low, high) of the mean of values in [0, 1], one per random split.

    share: validation images per training image. Splits of the same images overlap, so that their values vary less than
    those of new images would: the variance of the mean is (1 / n + share) s^2 instead of s^2 / n. None for one value or
    equal ones, which say nothing of a spread.
    Source: Nadeau and Bengio, "Inference for the Generalization Error" (Machine Learning 52, 2003), section 3.
    """
    from scipy.stats import t

    if min(values) == max(values):
        return None
    mean, count = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) * np.sqrt(1 / count + share))
    return max(0.0, mean - half), min(1.0, mean + half)


def classification_metrics(
    truth: NDArray[np.integer] | NDArray[np.bool_],
    scores: NDArray[np.floating],
    classes: Sequence[str],
    multi_label: bool,
) -> dict[str, Any]:
    """How a classifier did, as a JSON-ready dict.

    truth: class indices, int (N,), or for multi-label bool (N, C); scores: (N, C), where the highest is the
    prediction, or for multi-label probabilities in [0, 1], where every one >= 0.5 is. Keys: ``images``; ``accuracy``
    (multi-label: of whole label sets); ``macro_f1``, over the classes which occur in truth or prediction;
    ``classes``: per class ``precision``, ``recall``, ``f1`` (0 where undefined) and ``support``; ``confusion``:
    [true][predicted] counts (multi-label: such a 2 x 2 table per class, absent before present). Raises InputError
    for shapes that do not fit.
    """
    count = len(classes)
    shape = (len(scores), count)
    if len(scores) == 0 or scores.shape != shape or truth.shape != (shape if multi_label else shape[:1]):
        raise InputError(
            f"expected scores (N, {count}) and truth {'like them' if multi_label else '(N,)'}, with N >= 1; "
            f"got scores {scores.shape} and truth {truth.shape}"
        )
    if not multi_label and not ((truth >= 0) & (truth < count)).all():
        raise InputError(f"expected class indices below {count}; got {truth.min()} to {truth.max()}")
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # here: few wait for its import

    if multi_label:
        actual, predicted = truth.astype(bool), scores >= 0.5  # (N, C)
        right = (actual == predicted).all(axis=1)
        pairs = list(zip(actual.T, predicted.T, strict=True))
        confusion = np.stack([confusion_matrix(*pair, labels=[False, True]) for pair in pairs])  # (C, 2, 2)
        claims = confusion[:, :, 1].sum(axis=1)
        found = [precision_recall_fscore_support(*pair, labels=[True], zero_division=0.0) for pair in pairs]
        measured = np.hstack(found)  # (4, C)
    else:
        winners, labels = scores.argmax(axis=1), np.arange(count)
        right = truth == winners
        confusion = confusion_matrix(truth, winners, labels=labels)  # (C, C)
        claims = confusion.sum(axis=0)
        measured = np.stack(precision_recall_fscore_support(truth, winners, labels=labels, zero_division=0.0))
    support = measured[3].astype(np.int64)  # (C,), as each of the others
    columns = dict(zip(("precision", "recall", "f1", "support"), (*measured[:3], support), strict=True))
    occurs = claims + support > 0
    return {
        "images": len(scores),
        "accuracy": float(right.mean()),
        "macro_f1": float(columns["f1"][occurs].mean()) if occurs.any() else 0.0,
        "classes": {
            label: {name: column[i].item() for name, column in columns.items()} for i, label in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def reliability(
    truth: NDArray[np.integer] | NDArray[np.floating] | NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    multi_label: bool,
    bins: int = 15,
) -> NDArray[np.float64]:
    """How sure a classifier was of what it decided, and how often it was right, in bins of equal width.

    truth: class indices, int (N,), or for multi-label 0 or 1 (N, C); probabilities: (N, C) in [0, 1]. A decision is
    the likeliest class of an image; for multi-label each of its N C yes or no, made with max(p, 1 - p). Returns
    float64 (bins, 3): decisions, and sums of confidence and of right ones; bin m holds confidences in
    (m / bins, (m + 1) / bins]. Raises InputError for shapes that do not fit.
    """
    shape = probabilities.shape
    if len(shape) != 2 or 0 in shape or truth.shape != (shape if multi_label else shape[:1]) or bins < 1:
        raise InputError(f"expected probabilities (N, C), truth like them and bins; got {shape}, {truth.shape}, {bins}")
    if multi_label:
        confidence = np.maximum(probabilities, 1.0 - probabilities).ravel()
        right = ((probabilities >= 0.5) == (truth > 0)).ravel()
    else:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    confidence = confidence.astype(np.float64)
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    sums = (np.bincount(bin_of, weights=values, minlength=bins) for values in (np.ones(len(right)), confidence, right))
    return np.stack(tuple(sums), axis=1)


def expected_calibration_error(table: NDArray[np.float64]) -> float:
    """The mean difference of confidence and accuracy, in [0, 1], over bins weighted by their decisions.

    table: of ``reliability``.
    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017), equation 3.
    """
    decisions, confidence, right = table.T
    return float(np.abs(confidence - right).sum() / decisions.sum())


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64], counts: Counts) -> NDArray[np.float64]:
    both_empty = (counts.predicted == 0) & (counts.actual == 0)
    return np.where(both_empty, 1.0, part / np.maximum(whole, 1))
