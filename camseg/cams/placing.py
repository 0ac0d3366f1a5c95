"""Fused maps in the layout of a network's input -> a map over the image."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam
from camseg.cams.scores import Decider
from camseg.classify.network import FedNetwork

Grids: TypeAlias = tuple[NDArray[np.float32], ...]
"""Each member's fused map: float32 (S, S), >= 0, unnormalised, in the layout of that network's input."""
ViewMaps: TypeAlias = tuple[NDArray[np.float32], ...]
"""Each member's maps before they were fused: float32 (scales, flips, layers, s, s), >= 0, in the same layout; of no
views where there was nothing to look for."""


def to_image_size(classifier: Decider, grids: Grids, height: int, width: int, raw: bool) -> Cam:
    """Fused maps in the layout of the networks' inputs -> float32 (height, width) over the image.

    Each is scaled so that the smallest value is 0 and the largest 1, unless ``raw``; a constant map, which says
    nothing of place, becomes all zero. Of several members it is the mean, weighted by their shares.
    """
    return mean_of_members(classifier, members_over_image(classifier, grids, height, width, raw), raw)


def mean_of_members(classifier: Decider, maps: Iterable[Cam], raw: bool) -> Cam:
    """Each member's map over the image -> their mean, weighted by the members' shares."""
    total: Cam = np.zeros((1, 1), np.float32)  # of any size: maps may be large, and come one by one
    for share, one in zip(classifier.shares, maps, strict=True):
        total = total + np.float32(share) * one
    return total if raw else np.minimum(total, 1.0, out=total)  # rounded, shares may sum up to a little more


def members_over_image(classifier: Decider, grids: Grids, height: int, width: int, raw: bool) -> Iterator[Cam]:
    """Each member's map over the image, as ``to_image_size`` takes it into the mean."""
    for member, grid in zip(classifier.members, grids, strict=True):
        yield _over_image(member, grid, height, width, raw)


def members_views(classifier: Decider, views: ViewMaps, height: int, width: int) -> ViewMaps:
    """Each member's views as maps over the image, (scales, flips, layers, height, width) in [0, 1] each, scaled as
    ``to_image_size`` does; () for none. ``height`` and ``width`` may be less than the image's, for views are coarse.
    """
    placed = []
    for member, one in zip(classifier.members, views, strict=bool(views)):
        flat = [_over_image(member, grid, height, width, False) for grid in one.reshape(-1, *one.shape[-2:])]
        placed.append(np.array(flat, np.float32).reshape(*one.shape[:-2], height, width))
    return tuple(placed)


def features_over_image(classifier: Decider, maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """What the first network sees in the layout of its input (C, h, w) -> the part over an image of that size."""
    top, left, tall, wide = classifier.members[0].content_box(height, width)
    rows, columns = (
        slice(round(start * side), max(round((start + length) * side), round(start * side) + 1))
        for start, length, side in ((top, tall, maps.shape[1]), (left, wide, maps.shape[2]))
    )
    return maps[:, rows, columns]


def _over_image(classifier: FedNetwork, grid: NDArray[np.float32], height: int, width: int, raw: bool) -> Cam:
    side = len(grid)
    top, left, tall, wide = (round(share * side) for share in classifier.content_box(height, width))
    content = grid[top : top + max(1, tall), left : left + max(1, wide)]
    cam: Cam = cv2.resize(content, (width, height), interpolation=cv2.INTER_LINEAR)
    if raw:
        return cam
    low, high = float(cam.min()), float(cam.max())
    if high - low <= 1e-6 * high or high <= 0.0:
        return np.zeros((height, width), np.float32)
    cam -= low
    cam /= high - low
    return cam
