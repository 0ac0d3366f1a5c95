"""Masks <-> polygons, of which formats take one per object and none takes holes.

Every connected part becomes one polygon. A hole is joined to the outline by a seam, a line that is walked there and
back, so that it stays a hole. Two kinds of programs draw polygons: some take a point between pixels for their corner
(COCO, CVAT) and paint the pixels whose centres lie inside; others take points for pixels' centres and paint the line
too (OpenCV, Pillow). Both get polygons of their own, and at tolerance 0 those give the mask back bit for bit.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask

At: TypeAlias = Literal["corners", "centres"]
"""What the numbers of a point stand for: 0 is the image's left edge, or the centre of its leftmost pixels."""
Polygon: TypeAlias = NDArray[np.int64]
"""Points (n, 2), x and y; the last is joined to the first."""
_Ring: TypeAlias = NDArray[np.int64]


def mask_to_polygons(mask: Mask, at: At, tolerance: float = 0.0) -> list[Polygon]:
    """The polygons of a mask, bool (H, W): one for each connected part, holes joined to it by seams.

    Parts that touch by their corners only are apart with ``corners``, and one with ``centres``. tolerance: how far the
    outline may lie off, in pixels (Douglas and Peucker, 1973); parts that it would leave without area keep theirs. Each
    polygon has three points at least, the same ones again where a part has one or two pixels.
    """
    boxed, left, top = _crop(mask)
    pieces = _corner_rings(boxed) if at == "corners" else _centre_rings(boxed)
    joined = (_join(rings, at) for rings in pieces)
    return [_three(_simplify(points, fixed, tolerance)) + np.array([left, top]) for points, fixed in joined]


def polygons_to_mask(
    polygons: Sequence[NDArray[np.floating]] | Sequence[Polygon], height: int, width: int, at: At
) -> Mask:
    """The mask, bool (height, width), that polygons stand for: each painted by the even-odd rule, all together.

    at: ``corners`` paints the pixels whose centres lie inside; ``centres`` also those under the line, as OpenCV does,
    for which points are rounded down to pixels. What lies outside the image is cut off.
    """
    if at == "corners":
        mask = np.zeros((height, width), np.bool_)
        for polygon in polygons:
            _paint_inside(mask, np.asarray(polygon, np.float64))
        return mask
    mask = np.zeros((height, width), np.bool_)
    for polygon in polygons:
        points = np.floor(np.asarray(polygon)).astype(np.int64)
        left, top = np.maximum(points.min(axis=0), 0).tolist()
        right, bottom = np.minimum(points.max(axis=0) + 1, (width, height)).tolist()
        if left < right and top < bottom:
            one = np.zeros((bottom - top, right - left), np.uint8)
            cv2.fillPoly(one, [(points - (left, top)).astype(np.int32)], 1)
            mask[top:bottom, left:right] |= one > 0
    return mask


def _three(points: Polygon) -> Polygon:
    return np.concatenate([points, *[points[-1:]] * (3 - len(points))])


def _crop(mask: Mask) -> tuple[Mask, int, int]:
    """The part of a mask with an object, and where it lies."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return mask[:0, :0], 0, 0
    top, left = int(rows[0]), int(columns[0])
    return mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1], left, top


def _corner_rings(mask: Mask) -> list[list[_Ring]]:
    """The rings around each part along the edges of pixels, its outline first, then its holes from the top.

    A ring is made of the points where it turns. Along each row of points, edges run from the first to the second, from
    the third to the fourth, ...; along each column too. Where two pixels touch by their corners there are two points.
    """
    if not mask.size:
        return []
    padded = np.pad(mask, 1).astype(np.int8)
    # The four pixels around the point (y, x), which lies above and left of the pixel (y, x).
    one, two, three, four = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    falling = (one & four & ~two & ~three) == 1
    rising = (two & three & ~one & ~four) == 1
    turns = ((one + two + three + four) & 1 == 1) | falling | rising
    y, x = np.nonzero(turns)
    double = (falling | rising)[y, x]
    again = np.flatnonzero(double)
    points = np.stack([np.concatenate([x, x[again]]), np.concatenate([y, y[again]])], axis=1)
    # Of two at one place, the first has the edge upwards: with the edge to the left where the touch falls, else right.
    second = np.concatenate([np.zeros(len(x), np.int64), np.ones(len(again), np.int64)])
    goes_left = np.where(np.concatenate([falling[y, x], falling[y, x][again]]), second, 1 - second)
    across = np.lexsort([goes_left, points[:, 0], points[:, 1]])
    along = np.lexsort([second, points[:, 1], points[:, 0]])
    partners = []
    for order in (across, along):
        partner = np.empty(len(points), np.int64)
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
        partners.append(partner.tolist())
    # Parts are told apart by their edges, as the double points do.
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    outlines: dict[int, list[_Ring]] = {}
    holes: list[tuple[int, _Ring]] = []
    seen = np.zeros(len(points), np.bool_)
    for start in across.tolist():  # from the top, then from the left
        if seen[start]:
            continue
        ring, place = [], start
        while True:
            other = partners[0][place]
            ring += [place, other]
            place = partners[1][other]
            if place == start:
                break
        seen[ring] = True
        left, top = points[start].tolist()
        if top < mask.shape[0] and left < mask.shape[1] and mask[top, left]:
            outlines[int(labels[top, left])] = [points[ring]]
        else:
            holes.append((int(labels[top - 1, left]), points[ring]))
    for label, ring_points in holes:
        outlines[label].append(ring_points)
    return list(outlines.values())


def _centre_rings(mask: Mask) -> list[list[_Ring]]:
    """The rings around each part through the centres of its outermost pixels, its outline first, then its holes."""
    if not mask.size:
        return []
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [contour.reshape(-1, 2).astype(np.int64) for contour in contours]
    pieces = []
    for number, ring in enumerate(rings):
        if tree[0][number][3] >= 0:
            continue
        holes, child = [], tree[0][number][2]
        while child >= 0:
            holes.append(rings[child])
            child = tree[0][child][0]
        pieces.append([ring, *sorted(holes, key=lambda one: (int(one[:, 1].min()), int(one[:, 0].min())))])
    return pieces[::-1]  # OpenCV lists them from the bottom


def _join(rings: list[_Ring], at: At) -> tuple[Polygon, NDArray[np.bool_]]:
    """One polygon of an outline and its holes, and which of its points are ends of seams.

    A seam goes straight up from the hole's highest point, through the object, to the ring that it meets first: the
    outline, or a hole that begins higher and has been joined already.
    """
    points = rings[0]
    fixed = np.zeros(len(points), np.bool_)
    for hole in rings[1:]:
        first = int(np.lexsort([hole[:, 0], hole[:, 1]])[0])
        x, y = hole[first].tolist()
        turned = np.roll(hole, -first, axis=0)
        ends = np.zeros(len(turned), np.bool_)
        ends[0] = True
        place, above = _meets_corner(points, x, y) if at == "corners" else _meets_centre(points, x, y)
        seam = np.array([[x, above]])
        points = np.concatenate([points[: place + 1], seam, turned, turned[:1], seam, points[place + 1 :]])
        mark = np.ones(1, np.bool_)
        fixed = np.concatenate([fixed[: place + 1], mark, ends, mark, mark, fixed[place + 1 :]])
    return points, fixed


def _meets_corner(points: Polygon, x: int, y: int) -> tuple[int, int]:
    """After which point of a polygon a line upwards from (x, y) meets it, and how high that is.

    It runs along the left edges of pixels of the object, so it meets a horizontal edge that spans these pixels.
    """
    after = np.roll(points, -1, axis=0)
    low, high = np.minimum(points[:, 0], after[:, 0]), np.maximum(points[:, 0], after[:, 0])
    level = (points[:, 1] == after[:, 1]) & (low <= x) & (high > x) & (points[:, 1] < y)
    found = np.flatnonzero(level)
    place = int(found[np.argmax(points[found, 1])])
    return place, int(points[place, 1])


def _meets_centre(points: Polygon, x: int, y: int) -> tuple[int, int]:
    """The same for rings of neighbouring pixels, of which the line meets one."""
    found = np.flatnonzero((points[:, 0] == x) & (points[:, 1] <= y))
    place = int(found[np.argmax(points[found, 1])])
    return place, int(points[place, 1])


def _simplify(points: Polygon, fixed: NDArray[np.bool_], tolerance: float) -> Polygon:
    """Without points amid straight lines, or nearer to a line than the tolerance; ends of seams stay where they are."""
    if tolerance > 0.0:
        found = _chains(points, fixed, tolerance)
        if len(found) >= 3 and cv2.contourArea(found.astype(np.float32)) > 0.0:
            return found
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & ((before * after).sum(axis=1) > 0)
    return points[~straight] if not straight.all() else points[:1]


def _chains(points: Polygon, fixed: NDArray[np.bool_], tolerance: float) -> Polygon:
    ends = np.flatnonzero(fixed)
    if not ends.size:
        return _approximate(points, tolerance, closed=True)
    turned = np.roll(points, -int(ends[0]), axis=0)
    bounds = [*(ends - ends[0]).tolist(), len(points)]
    turned = np.concatenate([turned, turned[:1]])
    chains = [_approximate(turned[start : end + 1], tolerance, closed=False)[:-1] for start, end in pairwise(bounds)]
    return np.concatenate(chains)


def _approximate(points: Polygon, tolerance: float, closed: bool) -> Polygon:
    if len(points) <= 2:
        return points
    near = cv2.approxPolyDP(points.astype(np.int32), tolerance, closed)
    return near.reshape(-1, 2).astype(np.int64)


def _paint_inside(mask: Mask, polygon: NDArray[np.float64]) -> None:
    """Paint the pixels whose centres lie inside a polygon by the even-odd rule: each row of centres crosses its edges
    left of a pixel an odd number of times."""
    height, width = mask.shape
    after = np.roll(polygon, -1, axis=0)
    low, high = np.minimum(polygon[:, 1], after[:, 1]), np.maximum(polygon[:, 1], after[:, 1])
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
    counts = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(polygon)), counts)
    if not edge.size:
        return
    rows = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    start, end = polygon[edge], after[edge]
    share = (rows + 0.5 - start[:, 1]) / (end[:, 1] - start[:, 1])
    crossings = start[:, 0] + share * (end[:, 0] - start[:, 0])
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max())
    flips = np.zeros((bottom - top, right - left + 1), np.int32)
    np.add.at(flips, (rows - top, columns - left), 1)
    mask[top:bottom, left:right] |= np.cumsum(flips, axis=1)[:, :-1] % 2 == 1
