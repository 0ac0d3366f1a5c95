"""From masks to ranks: how far runs agree, where they agree on an object, and what follows for every candidate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.masks.consensus import pairwise_dice
from camseg.studies.choose_report import Candidate, ranks, vetoes
from camseg.studies.planting import Donor
from camseg.studies.settings import ChooseSettings

AREAS: Final = (0.002, 0.4)
"""Least and greatest area of a region that is planted, as shares of its image."""


@dataclass(kw_only=True, eq=False)
class Shown:
    """What all runs have shown of one image so far."""

    masks: list[NDArray[np.uint8]]
    """Per candidate, in the order of runs, the mask's bits."""
    total: NDArray[np.uint32]
    """(h, w) the sum of the runs' 8-bit maps."""

    def unpacked(self) -> list[Mask]:
        """The masks."""
        shape, size = self.total.shape, self.total.size
        return [np.unpackbits(bits, count=size).reshape(shape).astype(np.bool_) for bits in self.masks]


def dice_with_others(seen: Sequence[Shown], runs: int, each: int) -> NDArray[np.float64]:
    """Each candidate's mean Dice with the masks of the other runs, over the images: (runs * each,)."""
    owner = np.repeat(np.arange(runs), each)
    others = owner[:, None] != owner
    total = np.zeros(runs * each)
    for one in seen:
        total += (pairwise_dice(one.unpacked()) * others).sum(axis=1) / others.sum(axis=1)
    return total / len(seen)


def find_donors(seen: Sequence[Shown]) -> dict[int, Donor]:
    """By the number of the case the largest region that more than half of the masks hold, and the mean map's peak."""
    found = {}
    for place, one in enumerate(seen):
        masks = one.unpacked()
        agreed = np.sum(masks, axis=0, dtype=np.int64) * 2 > len(masks)
        count, labels, facts, _ = cv2.connectedComponentsWithStats(agreed.astype(np.uint8))
        if count < 2:
            continue
        region = labels == 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
        row, column = np.unravel_index(one.total.argmax(), one.total.shape)
        height, width = region.shape
        if AREAS[0] <= region.mean() <= AREAS[1]:
            peak = ((float(row) + 0.5) / height, (float(column) + 0.5) / width)
            found[place] = Donor(region=region, peak=peak)
    return found


def mask_dice(mask: Mask, truth: Mask) -> float:
    """The Dice coefficient of two masks (h, w), of which at most one is empty."""
    return float(2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)))


def rank_candidates(
    runs: Sequence[Path | str],
    settings: ChooseSettings,
    agreement: NDArray[np.float64],
    planted: Mapping[str, Sequence[float]],
    faithful: NDArray[np.float64],
) -> list[Candidate]:
    """Every run under every setting, with its ranks."""
    vetoed = vetoes(faithful)
    rank, planted_rank = ranks(agreement.tolist()), None
    if planted:
        planted_rank = np.mean([ranks(scores) for scores in planted.values()], axis=0)
        rank = (rank + planted_rank) / 2
    places = [
        (number, propagation, threshold)
        for number in range(len(runs))
        for propagation in settings.propagations
        for threshold in settings.thresholds
    ]
    return [
        Candidate(
            run=str(runs[number]),
            propagation=propagation,
            threshold=str(threshold),
            agreement=float(agreement[place]),
            planted={name: float(scores[place]) for name, scores in planted.items()},
            planted_rank=None if planted_rank is None else float(planted_rank[place]),
            rank=float(rank[place]),
            faithfulness=float(faithful[number].mean()),
            vetoed=bool(vetoed[number]),
        )
        for place, (number, propagation, threshold) in enumerate(places)
    ]
