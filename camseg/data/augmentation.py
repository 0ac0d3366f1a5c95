"""(Image, seed) -> Image: the random changes under which a label stays true."""

import cv2
import numpy as np

from camseg.base.arrays import Image
from camseg.data.settings import NONE, Augmentation


def augment(image: Image, settings: Augmentation, seed: tuple[int, ...]) -> Image:
    """Change an image at random: uint8 (H, W, 3) -> same. The same seed gives the same change.

    What comes in over the border is the image's mean colour, which no class can be read from.
    """
    if settings == NONE:
        return image
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
    return rounded
