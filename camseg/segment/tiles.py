"""Large images -> overlapping tiles, and what a network says of each -> one map over the image."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.classify.preprocessing import Preprocessing

OVERLAP = 0.25
"""Neighbouring tiles share at least this part of their side."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How an image is cut."""

    height: int
    width: int
    boxes: tuple[tuple[int, int, int, int], ...]
    """Top, left, bottom and right of each tile in pixels, the ends not included; together they cover the image."""


def tiling(height: int, width: int, tile: int | None) -> Tiling:
    """Cut an image with a side above ``tile`` pixels into tiles of that side, or less where the image is narrower.

    They lie evenly, the first and last at the borders, and overlap by ``OVERLAP`` at least. None: one tile, all of it.
    """
    if tile is None or max(height, width) <= tile:
        return Tiling(height=height, width=width, boxes=((0, 0, height, width),))
    rows, columns = _starts(height, tile), _starts(width, tile)
    boxes = tuple((top, left, min(top + tile, height), min(left + tile, width)) for top in rows for left in columns)
    return Tiling(height=height, width=width, boxes=boxes)


def over_image(grids: NDArray[np.float32], cut: Tiling, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Maps of square inputs, float32 (tiles, C, s, s), -> float32 (C, H, W) over the image that they were cut from.

    What was padded is left out. Where tiles overlap their mean is taken, in which a tile counts less towards its edge:
    what lies there it saw without its surroundings.
    """
    if len(cut.boxes) == 1:
        return _spread(grids[0], cut.height, cut.width, preprocessing)
    total = np.zeros((grids.shape[1], cut.height, cut.width), np.float32)
    weights = np.zeros((cut.height, cut.width), np.float32)
    for grid, (top, left, bottom, right) in zip(grids, cut.boxes, strict=True):
        weight = np.outer(_ramp(bottom - top), _ramp(right - left)).astype(np.float32)
        total[:, top:bottom, left:right] += weight * _spread(grid, bottom - top, right - left, preprocessing)
        weights[top:bottom, left:right] += weight
    return np.clip(total / weights, 0.0, 1.0)


def _spread(grid: NDArray[np.float32], height: int, width: int, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The part of maps (C, s, s) that shows an image, at the image's size."""
    side = grid.shape[1]
    top, left, tall, wide = (round(share * side) for share in preprocessing.content_box(height, width))
    content = grid[:, top : top + max(1, tall), left : left + max(1, wide)]
    return np.stack([_resized(channel, height, width) for channel in content])


def _starts(length: int, tile: int) -> list[int]:
    if length <= tile:
        return [0]
    steps = int(np.ceil((length - tile) / (tile * (1 - OVERLAP))))
    return [round(step * (length - tile) / steps) for step in range(steps + 1)]


def _ramp(length: int) -> NDArray[np.float64]:
    """1 in the middle, falling evenly towards both ends over the part that neighbours share."""
    places = np.arange(length) + 0.5
    return np.minimum(1.0, np.minimum(places, length - places) / (OVERLAP * length))


def _resized(channel: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    if channel.shape == (height, width):
        return channel
    found = cv2.resize(np.ascontiguousarray(channel), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(found, np.float32)
