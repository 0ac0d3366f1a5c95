"""(values, window) -> the values that become black and white."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import ImageError
from camseg.data.images import Window, window_limits


def find_limits(values: NDArray[Any], window: Window) -> tuple[float, float]:
    """LOW and HIGH, LOW the lesser, of a window ``percentile`` (0.5 to 99.5) or ``full`` (least to greatest value).

    ``values``: of any shape; those that are not finite do not count. ``LOW,HIGH`` are what they say. Raises
    ImageError when no value is finite.
    """
    if window not in ("percentile", "full"):
        return window_limits(window)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ImageError("none of its values is a finite number")
    low, high = np.percentile(finite, (0.5, 99.5)) if window == "percentile" else (finite.min(), finite.max())
    return _apart(float(low), float(high))


def find_common_limits(parts: Iterable[NDArray[Any]], window: Window) -> tuple[float, float]:
    """``find_limits`` of all values of several arrays, of which one at a time is in memory; (0, 1) without a value.

    Meant for whole numbers and what is made of them: the memory is that of their different values.
    """
    if window not in ("percentile", "full"):
        return window_limits(window)
    values, counts = np.zeros(0), np.zeros(0, np.int64)
    for part in parts:
        more, times = np.unique(part[np.isfinite(part)], return_counts=True)
        values, place = np.unique(np.concatenate([values, more]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, times]), len(values)).astype(np.int64)
    if values.size == 0:
        return 0.0, 1.0
    if window == "full":
        return _apart(float(values[0]), float(values[-1]))
    low, high = (_percentile(values, counts, share) for share in (0.005, 0.995))
    return _apart(low, high)


def _percentile(values: NDArray[Any], counts: NDArray[np.int64], share: float) -> float:
    """What np.percentile gives of sorted values that occur so often."""
    ends = np.cumsum(counts)  # behind the last place of each value
    place = share * (int(ends[-1]) - 1)
    below = int(place)
    first, second = (
        float(values[np.searchsorted(ends, one, side="right")]) for one in (below, below + (place > below))
    )
    return first + (second - first) * (place - below)


def _apart(low: float, high: float) -> tuple[float, float]:
    """What has one value only is black."""
    return low, high if high > low else low + 1.0
