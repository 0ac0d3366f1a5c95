"""Image -> what a network sees: one 8-bit square of its size, and normalised numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from camseg.base.arrays import Image, Mask, check_image
from camseg.base.errors import InputError
from camseg.classify.settings import Resize
from camseg.data.images import Window, check_window, read_image

LARGEST = 16_384
"""Most pixels along a side of the input."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are prepared; the fields are those of a Classifier. Checked when made: InputError."""

    image_size: int
    resize: Resize
    window: Window
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_form(self.image_size, self.resize, self.window)
        for name in ("mean", "std"):
            if len(per_channel(getattr(self, name), name)) != len(getattr(self, name)):
                raise InputError(f"expected {name} as three numbers, got {list(getattr(self, name))}")

    def content_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Where an image lies in the square input: (top, left, height, width) as shares of its side."""
        if self.resize == "stretch":
            return 0.0, 0.0, 1.0, 1.0
        side = self.image_size
        tall, wide = _fit(height, width, side)
        return (side - tall) // 2 / side, (side - wide) // 2 / side, tall / side, wide / side

    def to_input(self, image: Image, scale: float = 1.0) -> Image:
        """Resize one image to the square input, uint8 (s, s, 3) with s = round(scale * image_size)."""
        height, width = check_image(image).shape[:2]
        side = max(1, round(scale * self.image_size))
        if self.resize == "stretch":
            return _resized(image, side, side)
        # Placed on whole pixels of the unscaled input, so that every scale sees the same layout.
        top, left, tall, wide = (round(share * side) for share in self.content_box(height, width))
        square = np.empty((side, side, 3), np.uint8)
        square[:] = np.rint(255.0 * np.asarray(self.mean)).astype(np.uint8)
        content = square[top : top + max(1, tall), left : left + max(1, wide)]
        content[:] = _resized(image, *content.shape[:2])
        return square

    def region_to_input(self, region: Mask, scale: float = 1.0) -> Mask:
        """The pixels of the square input, (s, s), that show more of a region (H, W) of the image than of the rest."""
        height, width = region.shape
        side = max(1, round(scale * self.image_size))
        square = np.zeros((side, side), np.bool_)
        top, left, tall, wide = (round(share * side) for share in self.content_box(height, width))
        content = square[top : top + max(1, tall), left : left + max(1, wide)]
        content[:] = _resized(np.where(region, np.uint8(255), np.uint8(0)), *content.shape) > 127
        return square

    def read(self, path: Path | str) -> Image:
        """The square input of an image file, uint8 (S, S, 3). Raises ImageError as ``read_image`` does."""
        return self.to_input(read_image(path, self.window))

    def normalise(self, squares: Tensor) -> Tensor:
        """uint8 (N, s, s, 3) -> float32 (N, 3, s, s) on the same device, mean 0 and deviation 1."""
        x = squares.permute(0, 3, 1, 2).float().div_(255.0)  # (N, 3, s, s)
        mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return x.sub_(mean).div_(std)  # still strided channels-last, as the networks' weights are


def check_form(image_size: int, resize: Resize, window: Window, least: int = 1) -> None:
    """Raise InputError for a size below ``least`` or above ``LARGEST``, an unknown way to resize or a bad window."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not least <= image_size <= LARGEST:
        raise InputError(f"expected an image size of at least {least} pixels, at most {LARGEST}; got {image_size!r}")
    if resize not in ("stretch", "pad"):
        raise InputError(f"expected resize stretch or pad, got {resize!r}")
    check_window(window)


def per_channel(values: Sequence[float], name: str) -> tuple[float, ...]:
    """One or three numbers as three; InputError, with the name, for others, and for deviations that are not above 0."""
    if len(values) == 1:
        values = tuple(values) * 3
    numbers = all(isinstance(value, (int, float)) for value in values)
    if len(values) != 3 or not numbers or not np.isfinite(values).all() or (name == "std" and not min(values) > 0):
        raise InputError(f"expected one or three numbers for {name}{', above 0' * (name == 'std')}, got {list(values)}")
    return tuple(float(value) for value in values)


def _resized(image: Image, height: int, width: int) -> Image:
    # In two steps: OpenCV averages areas, which keeps fine patterns from aliasing, only where no side grows.
    smaller = min(width, image.shape[1]), min(height, image.shape[0])
    for size, way in ((smaller, cv2.INTER_AREA), ((width, height), cv2.INTER_LINEAR)):
        if size != image.shape[1::-1]:
            image = np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)
    return image


def _fit(height: int, width: int, side: int) -> tuple[int, int]:
    factor = side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))
