"""The arrays that travel between the stages: their names, their constants and their checks.

Inside camseg maps are float in [0, 1]; ``quantise`` is the one place that says how such a map
becomes the 8-bit map which is written, compared and thresholded.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import InputError

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3), RGB."""
Cam: TypeAlias = NDArray[np.float32]
"""(H, W), [0, 1]: one class's heat map at image size."""
Mask: TypeAlias = NDArray[np.bool_]
"""(H, W)."""
Trimap: TypeAlias = NDArray[np.uint8]
"""(H, W) in {BACKGROUND, UNKNOWN, FOREGROUND}."""
Alpha: TypeAlias = NDArray[np.float32]
"""(H, W), [0, 1]: the share of foreground in each pixel."""
Colors: TypeAlias = NDArray[np.float32]
"""(H, W, 3), [0, 1], RGB: estimated foreground or background colours."""

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255


def quantise(cam: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The 8-bit form of a map in [0, 1]: round(255 * cam), uint8, same shape."""
    levels: NDArray[np.uint8] = np.rint(np.clip(cam, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels


def dequantise(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The float32 map in [0, 1] that 8-bit levels stand for; ``quantise`` undoes it exactly."""
    return levels.astype(np.float32) / np.float32(255.0)


def check_image(image: object) -> Image:
    """Return ``image`` if it is uint8 (H, W, 3) with H, W >= 1; raise InputError otherwise."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"expected an RGB image, uint8 (H, W, 3); got {_describe(image)}; camseg.read_image gives such an array"
        )
    return _not_empty(image, "image")


def check_cam(cam: object) -> Cam:
    """Return ``cam`` as float32 (H, W) if it is a finite float map in [0, 1]; raise InputError otherwise."""
    if not isinstance(cam, np.ndarray) or not np.issubdtype(cam.dtype, np.floating) or cam.ndim != 2:
        raise InputError(f"expected a map, float (H, W) in [0, 1]; got {_describe(cam)}")
    _not_empty(cam, "map")
    low, high = float(cam.min()), float(cam.max())
    if not (low >= 0.0 and high <= 1.0):  # NaN fails both comparisons
        raise InputError(f"expected a map in [0, 1]; got values from {low:g} to {high:g}; scale it first")
    return cam.astype(np.float32, copy=False)


def check_mask(mask: object) -> Mask:
    """Return ``mask`` if it is bool (H, W); raise InputError otherwise."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
        raise InputError(f"expected a mask, bool (H, W); got {_describe(mask)}; compare it first, as in mask > 0")
    return _not_empty(mask, "mask")


def check_trimap(trimap: object) -> Trimap:
    """Return ``trimap`` if it is uint8 (H, W) holding only 0, 128 and 255; raise InputError otherwise."""
    if not isinstance(trimap, np.ndarray) or trimap.dtype != np.uint8 or trimap.ndim != 2:
        raise InputError(f"expected a trimap, uint8 (H, W) in {{0, 128, 255}}; got {_describe(trimap)}")
    _not_empty(trimap, "trimap")
    others = set(np.flatnonzero(np.bincount(trimap.ravel(), minlength=256))) - {BACKGROUND, UNKNOWN, FOREGROUND}
    if others:
        raise InputError(f"expected a trimap of 0, 128 and 255 only; it also holds {sorted(map(int, others))[:5]}")
    return trimap


def check_same_size(first: NDArray[Any], second: NDArray[Any], names: str) -> None:
    """Raise InputError unless both arrays have the same height and width; ``names`` goes into the message."""
    if first.shape[:2] != second.shape[:2]:
        raise InputError(f"{names} differ in size: {first.shape[:2]} and {second.shape[:2]} (height, width)")


def _not_empty(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.size == 0:
        raise InputError(f"expected at least one pixel; got an empty {name} of shape {array.shape}")
    return array


def _describe(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
