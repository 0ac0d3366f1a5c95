"""A mask and its map -> prompts for each of its parts, and which of the answers to take."""

import zlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Image, Mask
from camseg.base.geometry import squared_distance
from camseg.masks.consensus import centrality, pairwise_dice
from camseg.refinement.choosing import MIN_IOU

JITTERED = 6
"""Boxes of each part beside its own."""
JITTER = 0.1
"""How far each side of a box may move, in widths or heights of the box."""
PEAKS = 3
"""Points in each part at most."""
PEAK_LEVEL = 0.8
"""A peak is at least this share of the highest one of its part."""
PEAK_REACH = 0.25
"""A peak is the highest point as far around it as this, in roots of the part's area; so no two are nearer."""


def parts(mask: Mask) -> Iterator[Mask]:
    """The connected parts of a mask, bool (H, W), with eight neighbours, each bool (H, W); from the top down.

    One after the other: of a speckled mask all together would fill the memory.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return (labels == label for label in range(1, count))


def box_around(part: Mask) -> NDArray[np.float64]:
    """Left, top, right and bottom of the box around a part that is not empty, (4,); pixel i goes from i to i + 1."""
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def jittered_boxes(
    box: NDArray[np.float64], size: tuple[int, int], rng: np.random.Generator, count: int = JITTERED
) -> NDArray[np.float64]:
    """A box (4,), and ``count`` more with sides moved by up to ``JITTER`` of its width and height, (count + 1, 4).

    ``size``: height and width of the image, which no box leaves.
    """
    left, top, right, bottom = box
    reach = JITTER * np.array([right - left, bottom - top] * 2)
    boxes = np.concatenate([box[None], box + reach * rng.uniform(-1, 1, (count, 4))])
    return boxes.clip(0, [size[1], size[0]] * 2)


def generator(image: Image) -> np.random.Generator:
    """Random numbers that an image decides: the same each time, whatever was done before."""
    return np.random.default_rng(zlib.crc32(np.ascontiguousarray(image).data))


def peaks(part: Mask, cam: Cam | None) -> NDArray[np.float64]:
    """Where a part's map is highest, x and y of the pixels' centres, (n, 2) with n from 1 to ``PEAKS``, highest first.

    ``part``: bool (H, W), not empty; ``cam``: float32 (H, W). Without a map, and among equals, the pixel counts that is
    farthest from the part's outline.
    """
    left, top, right, bottom = box_around(part).astype(int)
    inside = part[top:bottom, left:right]
    depth = squared_distance(~np.pad(inside, 1))[1:-1, 1:-1]
    values = depth if cam is None else np.where(inside, cam[top:bottom, left:right], np.float32(-1))
    reach = max(1, round(PEAK_REACH * float(np.sqrt(np.count_nonzero(inside)))))
    around = cv2.dilate(values, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    rows, columns = np.nonzero(inside & (values == around) & (values >= PEAK_LEVEL * values[inside].max()))
    chosen: list[tuple[int, int]] = []
    for place in np.lexsort((-depth[rows, columns], -values[rows, columns])):
        row, column = int(rows[place]), int(columns[place])
        if all(max(abs(row - one), abs(column - other)) > reach for one, other in chosen):
            chosen.append((row, column))
    points = chosen[: 1 if cam is None else PEAKS]
    return np.array([(left + column + 0.5, top + row + 0.5) for row, column in points])


def most_central(answers: Sequence[Mask]) -> int:
    """Which of several masks, bool (H, W), has the largest mean intersection over union with the others.

    The first one among equals.
    """
    dice = pairwise_dice(answers)
    return int(centrality(dice / (2 - dice)).argmax())


def agrees(answer: Mask, part: Mask) -> bool:
    """Whether an answer is to be taken for a part: intersection over union of at least ``MIN_IOU``."""
    return bool(np.count_nonzero(answer & part) >= MIN_IOU * np.count_nonzero(answer | part))
