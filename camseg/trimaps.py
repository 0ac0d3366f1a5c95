"""Mask -> Trimap: what is surely object, what is surely not, and the band in between to be decided.

Radii are exact Euclidean distances between pixel centres, found by a distance transform: dilation by r
takes every pixel within r of the object, erosion drops every pixel within r of the background. That is
morphology with a disc of 2 r + 1 pixels, and costs the same for every r. What lies outside the image takes
no part, so an object that touches the border keeps its pixels there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Mask, Trimap, check_mask, check_same_size
from camseg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Radius:
    """How far a morphological operation reaches; ``str`` gives its text back."""

    value: float
    """Pixels, or a share of the object's size."""
    relative: bool = False
    """Whether the value is a share: of the diameter of the disc that has the object's area."""

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"


def parse_radius(text: str | float) -> Radius:
    """The radius that ``5`` or ``"5"`` (pixels) or ``"10%"`` (of the object's size) stands for; raises InputError."""
    word = str(text).strip()
    try:
        value = float(word.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise InputError(
            f"expected a radius of 0 or more in pixels, as in 5, or of the object's size, as in 10%; got {word!r}"
        )
    return Radius(value=value / 100, relative=True) if word.endswith("%") else Radius(value=value)


def mask_to_trimap(
    mask: Mask,
    *,
    open: str | float | Radius = 0,
    close: str | float | Radius = 0,
    dilate: str | float | Radius = "20%",
    erode: str | float | Radius = "10%",
) -> Trimap:
    """The trimap of a mask: it is opened, closed, then dilated and eroded for the two edges of the unknown band.

    ``mask``: bool (H, W). Returns uint8 (H, W) in {0, 128, 255}. Radii: pixels, or a percentage of the object's
    size, which is the diameter of the disc of the same area, sqrt(4 area / pi), of each 8-connected object by
    itself. A relative radius is at least one pixel, and never so large that opening or erosion would lose an
    object: its deepest pixels stay. Radii in pixels are taken at their word. An empty mask gives background
    only, a full one foreground only. The band reaches further out than in, because a map leaves out more of an
    object than it adds. Raises InputError.
    """
    cleaned = _apply(_close, _apply(_open, check_mask(mask), open), close)
    return masks_to_trimap(inner=_apply(_erode, cleaned, erode), outer=_apply(_dilate, cleaned, dilate))


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


def _distance_to(target: Mask) -> NDArray[np.float32]:
    """Exact distance of each pixel to the nearest pixel of ``target``; infinite where there is none."""
    if not target.any():
        return np.full(target.shape, np.inf, dtype=np.float32)
    return cv2.distanceTransform((~target).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _dilate(mask: Mask, radius: float) -> Mask:
    return _distance_to(mask) <= radius


def _erode(mask: Mask, radius: float) -> Mask:
    return _distance_to(~mask) > radius


def _open(mask: Mask, radius: float) -> Mask:
    return _dilate(_erode(mask, radius), radius)


def _close(mask: Mask, radius: float) -> Mask:
    return _erode(_dilate(mask, radius), radius)


def _apply(operation: Callable[[Mask, float], Mask], mask: Mask, radius: str | float | Radius) -> Mask:
    """Apply an operation to the whole mask, or, with a relative radius, to each object with a radius of its own."""
    radius = radius if isinstance(radius, Radius) else parse_radius(radius)
    if radius.value == 0:
        return mask
    if not radius.relative:
        return operation(mask, radius.value)
    result = np.zeros_like(mask)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        left, top, width, height, area = map(int, stats[label])
        reach = max(1.0, radius.value * math.sqrt(4 * area / math.pi))
        margin = math.ceil(reach) + 1
        window = np.s_[max(0, top - margin) : top + height + margin, max(0, left - margin) : left + width + margin]
        component = labels[window] == label
        if operation in (_erode, _open):
            deepest = _distance_to(~component).max()
            reach = min(reach, float(np.nextafter(deepest, np.float32(0))))
        result[window] |= operation(component, reach)
    return result
