"""Scores summed image by image: means, curves and the best level, of one class or of all images."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camseg.measure.evaluate_report import MaskScores, Scores
from camseg.measure.metrics import THRESHOLDS, Counts, dice, iou, pixel_accuracy, precision, recall

MEASURES = {"dice": dice, "iou": iou, "precision": precision, "recall": recall, "pixel_accuracy": pixel_accuracy}
"""Of a mask against the true one; the names are those of the fields and of the JSON."""
THESE_MASKS = "these masks"
"""``chosen_on`` of a threshold that was chosen on the very masks it is scored on: an upper bound, no estimate."""

Interval: TypeAlias = Callable[[Sequence[float]], tuple[float, float]]
"""The bootstrap interval of a mean."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a threshold is called, and where it comes from."""

    threshold: str
    """These five as in ``MaskScores``."""
    chosen_on: str | None
    level: int | None = None
    file: str | None = None
    sha256: str | None = None


class Tally:
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
        """One image more: ``sweep`` (measures, 256) of its map, ``cuts`` (measures,) for each threshold."""
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
        labels: Sequence[Cut],
        interval: Interval,
        are_masks: bool,
        drawn: Sequence[str] | None,
    ) -> Scores:
        """The means over the images so far.

        labels: how the thresholds are called; interval: of a mean; are_masks: no level can be chosen then; drawn: the
        names of those that choose the best level, None for all.
        """
        filled, empty = map(len, self.mean_dices)
        best = None if are_masks else self._best(interval, drawn)
        return Scores(
            images=filled,
            empty_images=empty,
            mean_dice=float(np.mean(self.mean_dices[0])) if filled else None,
            mean_dice_interval=interval(self.mean_dices[0]) if filled else None,
            mean_dice_of_empty=float(np.mean(self.mean_dices[1])) if empty else None,
            binary_cross_entropy=float(self.cross_entropy[0] / filled) if filled else None,
            dice_curve=tuple((self.sweep[0, 0] / filled).tolist()) if filled else (),
            iou_curve=tuple((self.sweep[0, 1] / filled).tolist()) if filled else (),
            best_level=None if best is None else best.level,
            best=best,
            thresholds=tuple(
                self._at(label, self.cuts[0, k], self.cuts[1, k, 0], [dices[k] for dices in self.cut_dices], interval)
                for k, label in enumerate(labels)
            ),
        )

    def _best(self, interval: Interval, drawn: Sequence[str] | None) -> MaskScores | None:
        """The masks of the level with the highest Dice; None where no image chooses one.

        Where images are drawn to choose it, it is scored on the others, if there are any.
        """
        everyone = range(len(self.names))
        chosen_on, choosing = THESE_MASKS, set(everyone)
        if drawn is not None:
            choosing = {place for place, name in enumerate(self.names) if name in set(drawn)}
            chosen_on = f"{len(choosing)} of {THESE_MASKS}"
        if not choosing:
            return None
        curve = self.sweep[0, 0] if drawn is None else sum(self.sweeps[place][0] for place in sorted(choosing))
        level = int(np.argmax(curve))
        scored = [place for place in everyone if drawn is None or place not in choosing] or sorted(choosing)
        sums = self.sweep[0, :, level]
        if len(scored) < len(everyone):
            sums = np.sum([self.sweeps[place][:, level] for place in scored], axis=0, dtype=np.float64)
            chosen_on = f"{chosen_on}, not those scored"
        cut = Cut(threshold=level_text(level), chosen_on=chosen_on, level=level)
        dices = [float(self.sweeps[place][0, level]) for place in scored]
        return self._at(cut, sums, self.sweep[1, 0, level], dices, interval)

    def _at(self, cut: Cut, sums: NDArray[Any], kept: float, dices: Sequence[float], interval: Interval) -> MaskScores:
        """``sums``: (measures,) over the images whose Dice are given; ``kept``: that of the empty truths."""
        count, empty = len(dices), len(self.mean_dices[1])
        means: dict[str, Any] = {name: float(sums[i] / count) if count else None for i, name in enumerate(MEASURES)}
        return MaskScores(
            **asdict(cut),
            images=count,
            dice_interval=interval(dices) if count else None,
            empty_kept=float(kept / empty) if empty else None,
            **means,
        )


def measure_counts(counts: Counts) -> NDArray[np.float64]:
    """Every one of ``MEASURES``: float64 (measures, thresholds of the counts), or (measures,) of a mask's."""
    return np.stack([measure(counts) for measure in MEASURES.values()])


def level_text(level: int) -> str:
    """A level of 0..255 as a threshold in the grammar of ``camseg masks``."""
    # Half a level above it, so that three digits and either comparison give the same mask.
    return f"{(level + 0.5) / 255:.3f}"
