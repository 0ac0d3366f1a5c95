"""Known objects in images that hold none: what a map toward a class should find there, without any true mask.

Source: Zhang et al., "SWSA" (arXiv 2310.10461), who choose detectors by their mean rank over several generators of
synthetic anomalies. Which generators is our own choice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from camseg.base.arrays import Image, Mask
from camseg.base.errors import InputError

Share: TypeAlias = NDArray[np.float32]
"""float32 (H, W) in [0, 1]: how much of the planted object a pixel takes."""

SCALES: Final = (0.7, 1.3)
"""How much smaller or larger objects are planted than they are."""
JITTER: Final = 0.1
"""Deviation of the place where an object is planted from its own, as a share of the image's sides."""
SIDE: Final = 128
"""Longest side of the grid on which noise is drawn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Donor:
    """What is known of an object of another image."""

    region: Mask
    """(h, w) on any grid over that image: where networks agree that it is, in one piece."""
    peak: tuple[float, float]
    """(row, column) of their mean map's highest point, as shares of that image's sides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """An image with a known object."""

    image: Image
    """(H, W, 3)."""
    mask: Mask
    """(H, W): where the object is; empty where nothing of it fell on the image."""


def plant(generator: str, base: Image, image: Image, donor: Donor, seed: tuple[int, ...]) -> Planted:
    """Plant an object into ``base``, uint8 (H, W, 3), made of the donor's ``image``, uint8 (h, w, 3).

    ``generator``: a name of ``GENERATORS``, InputError for another. Size, mirroring and place follow from ``seed`` and
    the donor alone, so that views of one image in several windows get the same object.
    """
    if generator not in GENERATORS:
        raise InputError(f"expected a generator among {', '.join(GENERATORS)}; got {generator!r}")
    random = np.random.default_rng((*seed, list(GENERATORS).index(generator)))
    share, content = GENERATORS[generator](image, donor, random)
    matrix = _placement(base.shape[:2], image.shape[:2], share, random)
    size = (base.shape[1], base.shape[0])
    alpha = cv2.warpAffine(share, matrix, size, flags=cv2.INTER_LINEAR)  # nothing of it where there is no image
    paint = cv2.warpAffine(content, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    blended = base + alpha[..., None] * (paint.astype(np.float32) - base)
    return Planted(image=np.rint(blended).clip(0, 255).astype(np.uint8), mask=alpha > 0.5)


def _soft_patch(image: Image, donor: Donor, random: Generator) -> tuple[Share, Image]:
    """The image around the map's peak: an ellipse of the region's area with a wide soft edge."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    aspect = random.uniform(0.7, 1.4)
    radius = max(1.0, np.sqrt(donor.region.mean() * height * width / np.pi))
    down, across = rows - donor.peak[0] * height, columns - donor.peak[1] * width
    distance = np.hypot(down / (radius * aspect), across * aspect / radius)
    return _smooth(0.5 + (1 - distance) / 0.8), image


def _piece(image: Image, donor: Donor, _random: Generator) -> tuple[Share, Image]:
    """The region itself, cut out with an edge that is hardly softened."""
    height, width = image.shape[:2]
    region = cv2.resize(donor.region.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    deviation = max(0.7, 0.004 * max(height, width))
    return np.asarray(cv2.GaussianBlur(region, (0, 0), deviation), np.float32), image


def _noise(image: Image, donor: Donor, random: Generator) -> tuple[Share, Image]:
    """A blob of the region's place and area with a noisy outline, filled with noise of the region's colours."""
    height, width = image.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    coarse, fine = (_field(size, random, cells) for cells in (6, 24))
    rows, columns = np.mgrid[: size[1], : size[0]] + 0.5
    places = np.argwhere(donor.region) + 0.5
    centre = places.mean(axis=0) / donor.region.shape * (size[1], size[0])
    area = float(donor.region.mean()) * size[0] * size[1] * random.uniform(0.6, 1.5)
    radius = max(1.0, np.sqrt(area / np.pi))
    height_map = 1 - np.hypot(rows - centre[0], columns - centre[1]) / radius + 0.4 * coarse
    share = cv2.resize(_smooth(0.5 + height_map / 0.3), (width, height), interpolation=cv2.INTER_LINEAR)
    inside = cv2.resize(donor.region.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    pixels = image[inside] if inside.any() else image.reshape(-1, 3)
    texture = cv2.resize((coarse + fine).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    colors = pixels.mean(axis=0) + texture[..., None] * pixels.std(axis=0)
    return share, colors.clip(0, 255).astype(np.uint8)


GENERATORS: Final[Mapping[str, Callable[[Image, Donor, Generator], tuple[Share, Image]]]] = {
    "patches": _soft_patch,
    "pieces": _piece,
    "noise": _noise,
}
"""(the donor's image, the donor, random numbers) -> over that image how much of it is planted, and what."""


def _placement(base: tuple[int, ...], own: tuple[int, ...], share: Share, random: Generator) -> NDArray[np.float64]:
    """The matrix (2, 3) from the donor's image to the base: mirrored by chance, scaled, near the place of its own."""
    scale = random.uniform(*SCALES) * max(base) / max(own)
    mirror = -1.0 if random.random() < 0.5 else 1.0
    move = random.normal(0.0, JITTER, 2)
    total = max(float(share.sum()), 1e-6)
    row = float((share.sum(axis=1) * np.arange(own[0])).sum()) / total
    column = float((share.sum(axis=0) * np.arange(own[1])).sum()) / total
    place = np.array([row / own[0], column / own[1] if mirror > 0 else 1 - column / own[1]])
    down, across = np.clip(place + move, 0.1, 0.9) * base
    return np.array([[mirror * scale, 0.0, across - mirror * scale * column], [0.0, scale, down - scale * row]])


def _field(size: tuple[int, int], random: Generator, cells: int) -> NDArray[np.float64]:
    """Smooth noise (height, width) of mean 0 and deviation 1 with so many cells to a side."""
    grown = cv2.resize(random.normal(size=(cells, cells)), size, interpolation=cv2.INTER_CUBIC)
    field: NDArray[np.float64] = (grown - grown.mean()) / max(float(grown.std()), 1e-6)
    return field


def _smooth(values: NDArray[np.float64]) -> Share:
    """The step 3s^2 - 2s^3 from 0 to 1, flat outside [0, 1]."""
    values = np.clip(values, 0.0, 1.0)
    return np.asarray(values * values * (3.0 - 2.0 * values), np.float32)
