"""How a segmentation network does on a set of images: seven measures, per image and over all pixels, named apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.measure.metrics import (
    CLIP,
    Counts,
    dice,
    iou,
    known_pixels,
    mask_counts,
    pixel_accuracy,
    precision,
    recall,
)

OVERLAPS: Final = {"precision": precision, "recall": recall, "iou": iou, "dice": dice}
"""Of a class's mask against the true one; per image they are means over the images whose truth is not empty."""


@dataclass
class _ClassTally:
    """One class's counts."""

    per_image: list[Counts] = field(default_factory=list)

    def scores(self) -> dict[str, Any]:
        filled = [counts for counts in self.per_image if counts.actual]
        empty = [counts for counts in self.per_image if not counts.actual]
        found: dict[str, Any] = {"images": len(filled), "empty_images": len(empty)}
        for name, measure in OVERLAPS.items():
            found[f"mean_{name}_per_image"] = _mean([float(measure(counts)) for counts in filled])
        found["mean_accuracy_per_image"] = _mean([float(pixel_accuracy(counts)) for counts in self.per_image])
        measures = {**OVERLAPS, "accuracy": pixel_accuracy}
        if self.per_image:
            total = Counts(
                true_positives=sum((counts.true_positives for counts in self.per_image), np.array(0)),
                predicted=sum((counts.predicted for counts in self.per_image), np.array(0)),
                actual=sum(counts.actual for counts in self.per_image),
                pixels=sum(counts.pixels for counts in self.per_image),
            )
            found |= {f"{name}_over_pixels": float(measure(total)) for name, measure in measures.items()}
        else:
            found |= {f"{name}_over_pixels": None for name in measures}
        found["empty_kept"] = _mean([float(counts.predicted == 0) for counts in empty])
        return found


class SegmentationTally:
    """Adds images up; ``scores`` says how the network did.

    classes: in the order of the channels; multi_label: whether each class is decided by itself, by a probability above
    one half, or the likeliest of the background and all classes wins.
    """

    def __init__(self, classes: Sequence[str], multi_label: bool) -> None:
        self.classes, self.multi_label = tuple(classes), multi_label
        self.tallies = {name: _ClassTally() for name in classes}
        self.costs: list[tuple[float, int]] = []
        self.right: list[tuple[int, int]] = []

    def add(self, probabilities: NDArray[np.floating], target: NDArray[np.uint8], ignored: int) -> None:
        """Count one image.

        probabilities: (C, H, W), or for exclusive classes (1 + C, H, W) with the background first; target: (H, W, C)
        of 0 and 1, or (H, W, 1) of numbers from 0 for the background; ``ignored`` marks pixels that do not count.
        """
        if self.multi_label:
            masks, truths = probabilities > 0.5, np.moveaxis(target, 2, 0)
            voids = truths == ignored
            costs = _binary_costs(probabilities, truths == 1)
        else:
            winners, numbers = probabilities.argmax(axis=0), target[..., 0]
            void = numbers == ignored
            kinds = np.arange(1, len(self.classes) + 1)[:, None, None]
            masks, truths = winners == kinds, numbers == kinds
            voids = np.broadcast_to(void, masks.shape)
            own = np.take_along_axis(probabilities, np.where(void, 0, numbers)[None].astype(np.int64), axis=0)
            costs = -np.log(np.clip(own, CLIP, 1.0))
            self.right.append((int(np.count_nonzero((winners == numbers) & ~void)), int(np.count_nonzero(~void))))
        known = ~voids if self.multi_label else ~voids[:1]
        if known.any():
            self.costs.append((float(costs[known].sum(dtype=np.float64)), int(np.count_nonzero(known))))
        for tally, mask, truth, void in zip(self.tallies.values(), masks, truths, voids, strict=True):
            if not void.all():
                tally.per_image.append(mask_counts(known_pixels(mask, void), known_pixels(truth == 1, void)))

    def scores(self) -> dict[str, Any]:
        """The measures by name, means over the classes, and under ``classes`` those of each.

        ``mean_X_per_image``: precision, recall, iou and dice over the images with the class, accuracy and cross-entropy
        over all; ``X_over_pixels``: of all images' pixels together. None where no image counts. The cross-entropy, in
        nats, is binary, a mean over the classes, or categorical; so for exclusive classes is the accuracy, the share of
        pixels whose likeliest class is right.
        """
        classes = {name: tally.scores() for name, tally in self.tallies.items()}
        names = [name for name in next(iter(classes.values())) if name not in ("images", "empty_images")]
        found: dict[str, Any] = {name: _mean([one[name] for one in classes.values()]) for name in names}
        if not self.multi_label:
            shares = [right / known for right, known in self.right if known]
            found["mean_accuracy_per_image"] = _mean(shares)
            known = sum(one for _, one in self.right)
            found["accuracy_over_pixels"] = sum(one for one, _ in self.right) / known if known else None
        kind = "binary" if self.multi_label else "categorical"
        pixels = sum(count for _, count in self.costs)
        found[f"mean_{kind}_cross_entropy_per_image"] = _mean([cost / count for cost, count in self.costs])
        found[f"{kind}_cross_entropy_over_pixels"] = sum(c for c, _ in self.costs) / pixels if pixels else None
        return {**found, "classes": classes}


def headline(scores: Mapping[str, Any]) -> float:
    """What one number says of scores: the mean Dice per image, over the images with an object; 0 without such."""
    return float(scores["mean_dice_per_image"] or 0.0)


def _binary_costs(probabilities: NDArray[np.floating], truth: Mask) -> NDArray[np.float64]:
    p = np.clip(probabilities.astype(np.float64), CLIP, 1.0 - CLIP)
    costs: NDArray[np.float64] = -np.where(truth, np.log(p), np.log1p(-p))
    return costs


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
