"""(values, window) -> the values that become black and white."""

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
    # What has one value only is black.
    return float(low), float(high) if high > low else float(low) + 1.0
