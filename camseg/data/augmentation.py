"""(Image, seed) -> Image: the random changes under which a label stays true, and a mask moves along."""

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Image
from camseg.data.settings import NONE, Augmentation


def augment(image: Image, settings: Augmentation, seed: tuple[int, ...]) -> Image:
    """Change an image at random: uint8 (H, W, 3) -> same. The same seed gives the same change.

    What comes in over the border is the image's mean colour, which no class can be read from.
    """
    return _changed(image, None, settings, seed)[0]


def augment_both(
    image: Image, target: NDArray[np.uint8], settings: Augmentation, seed: tuple[int, ...], outside: int
) -> tuple[Image, NDArray[np.uint8]]:
    """``augment`` an image, and move its target, uint8 (H, W, C) of class numbers, along with it.

    A pixel takes the number of the nearest one; what comes in over the border is ``outside``.
    """
    changed, moved = _changed(image, (target, outside), settings, seed)
    assert moved is not None
    return changed, moved


def recolor(image: Image, seed: tuple[int, ...], strength: float = 1.0) -> Image:
    """Change an image strongly, but move nothing: brightness, contrast, gamma, and half of the time blur.

    At ``strength`` 1 brightness changes by at most 30 % of the range either way, contrast by 60 %, gamma by a factor
    of 2.
    """
    random = np.random.default_rng(seed)
    brightness, contrast, gamma = random.uniform(-1, 1, 3) * strength * (0.3, 0.6, 1.0)
    values = (image.astype(np.float32) / 255.0) ** np.float32(2.0**gamma)
    level = np.float32(values.mean())
    values = np.clip((values - level) * np.float32(1.0 + contrast) + level + np.float32(brightness), 0.0, 1.0)
    if random.random() < 0.5:
        values = cv2.GaussianBlur(values, (0, 0), 0.5 + 1.5 * random.random() * strength)
    rounded: Image = np.rint(255.0 * values).astype(np.uint8)
    return rounded


def _changed(
    image: Image, target: tuple[NDArray[np.uint8], int] | None, settings: Augmentation, seed: tuple[int, ...]
) -> tuple[Image, NDArray[np.uint8] | None]:
    if settings == NONE:
        return image, None if target is None else target[0]
    random = np.random.default_rng(seed)
    angle, zoom, *shift = random.uniform(-1, 1, 4) * (settings.rotation, settings.zoom, settings.shift, settings.shift)
    mirrored = settings.mirror and random.random() < 0.5
    brightness, contrast = random.uniform(-1, 1, 2) * (settings.brightness, settings.contrast)
    height, width = image.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, angle, 1.0 + zoom)
    matrix[:, 2] += (shift[0] * width, shift[1] * height)
    mean = image.mean(axis=(0, 1))
    moved = cv2.warpAffine(
        image[:, ::-1] if mirrored else image,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=mean.tolist(),
    )
    level = float(mean.mean())
    changed = (moved.astype(np.float32) - level) * (1.0 + contrast) + level + 255.0 * brightness
    rounded: Image = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return rounded, None if target is None else _moved(*target, matrix, bool(mirrored))


def _moved(target: NDArray[np.uint8], outside: int, matrix: NDArray[np.float64], mirrored: bool) -> NDArray[np.uint8]:
    height, width = target.shape[:2]
    source = target[:, ::-1] if mirrored else target
    # Channel by channel: OpenCV's borders are of four channels at most.
    moved = [
        cv2.warpAffine(
            np.ascontiguousarray(source[..., channel]),
            matrix,
            (width, height),
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=outside,
        )
        for channel in range(target.shape[2])
    ]
    return np.stack([np.asarray(one, np.uint8) for one in moved], axis=-1)
