"""Mask or Cam -> Trimap: what is surely object, what is surely not, and the band in between to be decided.

Radii are exact Euclidean distances between pixel centres, found by a distance transform: dilation by r
takes every pixel within r of the object, erosion drops every pixel within r of the background. That is
morphology with a disc of 2 r + 1 pixels, and costs the same for every r. What lies outside the image takes
no part, so an object that touches the border keeps its pixels there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Mask, Trimap, check_mask, check_same_size, check_trimap
from camseg.base.errors import InputError
from camseg.base.geometry import squared_distance
from camseg.base.sizes import Size, parse_size
from camseg.refinement.settings import TrimapSettings


def mask_to_trimap(
    mask: Mask,
    *,
    open: str | float | Size = TrimapSettings.open,
    close: str | float | Size = TrimapSettings.close,
    dilate: str | float | Size = TrimapSettings.dilate,
    erode: str | float | Size = TrimapSettings.erode,
    sure: Mask | None = None,
) -> Trimap:
    """The trimap of a mask: it is opened, closed, then dilated and eroded for the two edges of the unknown band.

    ``mask``: bool (H, W). Returns uint8 (H, W) in {0, 128, 255}. Radii: pixels, or a percentage of the object's
    width, which is the diameter of the largest disc that fits into it, of each 8-connected object by itself
    (closing joins pieces: there it is the widest object's). A relative radius is at least one pixel, and never
    so large that opening or erosion would lose an object: its deepest pixels stay. Radii in pixels are taken at
    their word. What opening takes away stays unknown. An empty mask gives background only, a full one foreground
    only; ``unusable`` says what a trimap lacks.

    ``sure``: bool (H, W), where a map is at hand, what lies above a high threshold of it. What is sure and in the
    mask is foreground however much is eroded. Raises InputError.
    """
    opening, closing, dilation, erosion = (parse_size(radius) for radius in (open, close, dilate, erode))
    window = _window(check_mask(mask), (closing, dilation))
    seen = mask[window]
    cleaned = _close(_open(seen, opening), closing)
    trimap = np.full(mask.shape, BACKGROUND, dtype=np.uint8)
    trimap[window] = masks_to_trimap(inner=_erode(cleaned, erosion), outer=_dilate(seen | cleaned, dilation))
    if sure is not None:
        check_same_size(mask, check_mask(sure), "mask and sure pixels")
        trimap[sure & mask] = FOREGROUND
    return trimap


def masks_to_trimap(inner: Mask, outer: Mask) -> Trimap:
    """The trimap whose foreground is ``inner`` and whose background is all that lies outside ``outer``.

    Both bool (H, W); as from one map at a high and a low threshold. Returns uint8 (H, W) in {0, 128, 255}.
    Raises InputError if they differ in size or ``inner`` reaches beyond ``outer``.
    """
    check_same_size(check_mask(inner), check_mask(outer), "inner and outer mask")
    beyond = np.count_nonzero(inner & ~outer)
    if beyond:
        raise InputError(
            f"expected the inner mask within the outer one; {beyond} of its pixels lie outside; "
            "the inner mask comes from the higher threshold"
        )
    trimap = np.full(inner.shape, BACKGROUND, dtype=np.uint8)
    trimap[outer] = UNKNOWN
    trimap[inner] = FOREGROUND
    return trimap


def published_trimap(mask: Mask) -> Trimap:
    """The trimap of Laptev and Gerget: the mask at 1024 x 1024 is opened, closed, then dilated and eroded.

    ``mask``: bool (H, W). Returns uint8 (H, W) in {0, 128, 255}, at the mask's own size again (nearest). The
    sizes of its structuring elements are not published as far as we know: discs of radius ``PUBLISHED_CLEANING``
    and ``PUBLISHED_BAND`` stand in for them. What opening takes away is background, and a thin object may lose
    its foreground or vanish: ``unusable`` says so. Raises InputError.
    """
    height, width = check_mask(mask).shape
    square = cv2.resize(mask.astype(np.uint8), (1024, 1024), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    cleaned = _close(_open(square, PUBLISHED_CLEANING), PUBLISHED_CLEANING)
    trimap = masks_to_trimap(inner=_erode(cleaned, PUBLISHED_BAND), outer=_dilate(cleaned, PUBLISHED_BAND))
    return cv2.resize(trimap, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


PUBLISHED_CLEANING = Size(value=7)
"""Size of the published recipe's opening and closing, in pixels of 1024."""
PUBLISHED_BAND = Size(value=15)
"""Size of its dilation and erosion."""


def unusable(trimap: Trimap) -> str | None:
    """Why no refiner can learn from a trimap; None where it has foreground, background and unknown pixels.

    ``empty mask``, ``full mask``: one kind of known pixels only. ``eroded away``: there is an object, but none of
    it is sure. ``dilated over all``: no background is left. ``no band``: nothing is left to decide.
    Raises InputError.
    """
    levels = np.bincount(check_trimap(trimap).ravel(), minlength=256) > 0
    background, unknown, foreground = levels[[BACKGROUND, UNKNOWN, FOREGROUND]]
    if not unknown:
        return "no band" if background and foreground else "full mask" if foreground else "empty mask"
    if not foreground:
        return "eroded away"
    return None if background else "dilated over all"


@dataclass(frozen=True, eq=False)
class _Objects:
    """The 8-connected objects of a mask; number 0 is the background."""

    labels: NDArray[np.int32]
    """(H, W)"""
    boxes: NDArray[np.int32]
    """(objects, 4): left, top, width, height."""
    depth: NDArray[np.float32]
    """(H, W): distance to the nearest background pixel."""
    deepest: NDArray[np.float32]
    """(objects,): the largest depth in each."""

    def reach(self, share: float) -> NDArray[np.float32]:
        """(objects,): a relative radius in pixels; a disc whose centre is d deep is 2 d - 1 pixels wide."""
        return np.maximum(1, np.float32(share) * (2 * self.deepest - 1))

    def lossless_reach(self, share: float) -> NDArray[np.float32]:
        """(objects,): the same, but so small that erosion leaves each object its deepest pixels."""
        return np.minimum(self.reach(share), np.nextafter(self.deepest, np.float32(0)))

    def eroded(self, reach: NDArray[np.float32]) -> Mask:
        """(H, W): each object eroded by its own reach."""
        # Between any two objects lies background, so one distance serves them all.
        return (self.labels > 0) & (self.depth > reach[self.labels])


def _find_objects(mask: Mask) -> _Objects:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    depth = _distance_to(~mask)
    deepest = np.zeros(count, dtype=np.float32)
    np.maximum.at(deepest, labels[mask], depth[mask])
    return _Objects(labels=labels, boxes=stats[:, :4], depth=depth, deepest=deepest)


def _dilate(mask: Mask, radius: Size) -> Mask:
    if radius.value == 0:
        return mask
    if not radius.relative:
        return _distance_to(mask) <= radius.value
    objects = _find_objects(mask)
    return _grow(objects.labels, objects.boxes, objects.reach(radius.value))


def _erode(mask: Mask, radius: Size) -> Mask:
    if radius.value == 0:
        return mask
    if not radius.relative:
        return _distance_to(~mask) > radius.value
    objects = _find_objects(mask)
    return objects.eroded(objects.lossless_reach(radius.value))


def _open(mask: Mask, radius: Size) -> Mask:
    if radius.value == 0:
        return mask
    if not radius.relative:
        return _dilate(_erode(mask, radius), radius)
    objects = _find_objects(mask)
    reach = objects.lossless_reach(radius.value)
    return _grow(np.where(objects.eroded(reach), objects.labels, 0), objects.boxes, reach)


def _close(mask: Mask, radius: Size) -> Mask:
    if radius.value == 0:
        return mask
    if radius.relative:
        reach = radius.value * (2 * float(_find_objects(mask).deepest.max()) - 1)
        radius = Size(value=min(max(1.0, reach), sum(mask.shape)))
    return _erode(_dilate(mask, radius), radius)


def _grow(labels: NDArray[np.int32], boxes: NDArray[np.int32], reach: NDArray[np.float32]) -> Mask:
    """All pixels within an object's own reach (objects,) of it; its box holds it."""
    height, width = labels.shape
    # Squared distances are whole numbers: reaches with the same whole part of the square are the same disc.
    squares = (np.minimum(reach, height + width).astype(np.float64) ** 2).astype(np.int64)
    squares[0] = -1
    margins = np.ceil(np.sqrt(np.maximum(squares, 0))).astype(np.int64)
    left, top = (np.maximum(boxes[:, axis] - margins, 0) for axis in (0, 1))
    right, bottom = (boxes[:, axis] + boxes[:, axis + 2] + margins for axis in (0, 1))
    areas = (np.minimum(right, width) - left) * (np.minimum(bottom, height) - top)

    grown = np.zeros(labels.shape, dtype=np.bool_)
    for square in np.unique(squares[1:]):
        limit = math.sqrt(square + 0.5)
        alike = np.flatnonzero(squares == square)
        hull = np.s_[top[alike].min() : bottom[alike].max(), left[alike].min() : right[alike].max()]
        if labels[hull].size < (areas[alike] + _CALL_COST).sum():
            grown[hull] |= _distance_to(squares[labels[hull]] == square) <= limit
        else:
            for one in alike:
                window = np.s_[top[one] : bottom[one], left[one] : right[one]]
                grown[window] |= _distance_to(labels[window] == one) <= limit
    return grown


_CALL_COST = 2000
"""Pixels that could be worked on in the time that a distance transform takes to begin."""


def _distance_to(target: Mask) -> NDArray[np.float32]:
    """Exact distance of each pixel to the nearest pixel of ``target``; infinite where there is none."""
    away = squared_distance(target)
    return np.sqrt(away, out=away)


def _window(mask: Mask, radii: Sequence[Size]) -> tuple[slice, slice]:
    """The part of the image that dilations of a mask by these radii, one after the other, can reach, and a pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return np.s_[:1, :1]
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    margin = 1.0
    for radius in radii:
        # An object is no wider than the box that holds all of them, or than twice that where the border cuts it.
        widest = 2 * math.hypot(height + 2 * margin, width + 2 * margin)
        margin += max(1.0, radius.value * (widest if radius.relative else 1))
    reach = math.ceil(min(margin, sum(mask.shape)))
    return np.s_[max(0, rows[0] - reach) : rows[-1] + reach + 1, max(0, columns[0] - reach) : columns[-1] + reach + 1]
