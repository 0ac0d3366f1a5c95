"""(Image, seed) -> Image: the random changes under which a label stays true."""

from dataclasses import dataclass

import cv2
import numpy as np

from camseg.base.arrays import Image
from camseg.base.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of the random changes, each in [0, 1) but for the rotation; all zero and False changes nothing.

    Checked when made: InputError.
    """

    rotation: float = 20.0
    """Largest rotation either way, degrees."""
    zoom: float = 0.25
    """Largest relative change of size either way."""
    shift: float = 0.1
    """Largest shift either way along each axis, as a share of the side."""
    mirror: bool = True
    """Mirror left to right half of the time."""
    brightness: float = 0.15
    """Largest change of brightness either way, as a share of the full range."""
    contrast: float = 0.3
    """Largest relative change of contrast either way, about the image's mean."""

    def __post_init__(self) -> None:
        if not isinstance(self.mirror, bool):
            raise InputError(f"expected mirror true or false, got {self.mirror!r}")
        for name, limit in {"rotation": 360, "zoom": 1, "shift": 1, "brightness": 1, "contrast": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < limit:
                raise InputError(f"expected {name} in [0, {limit}), got {value!r}")


NONE = Augmentation(rotation=0.0, zoom=0.0, shift=0.0, mirror=False, brightness=0.0, contrast=0.0)


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
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
