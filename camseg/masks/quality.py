"""A mask, and what it becomes where something cheap is varied -> how far it can be trusted, and what speaks against it.

No true mask is needed: what depends on a mirror image, an input size or a level is seldom right.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Mask
from camseg.masks.consensus import agreement

WORKING_SIZE: Final = 128
"""Longest side, in pixels, at which masks are compared."""
VIEW_SHARE: Final = 0.7
"""Views' maps are cut at this share of their maximum."""
LEVEL_STEP: Final = 0.15
"""How far above the chosen level a map is cut, too, as a share of its maximum: of levels below it the masks' agreement
tells nothing on some sets."""
AXES: Final = ("scales", "flips", "layers")
"""In what views differ, in the order of their axes."""
VIEWS: Final = "views"
"""What the agreement of all single views is called."""
COUNTED: Final = ("members", VIEWS, "levels", "refinement")
"""Agreements whose mean, with the class's probability, is the quality of a mask; chosen on training images."""
LOW: Final[Mapping[str, tuple[float, str]]] = {
    "members": (0.5, "the ensemble's members disagree"),
    "scales": (0.3, "other input sizes give another mask"),
    "flips": (0.4, "the mirrored image gives another mask"),
    "levels": (0.35, "another level gives another mask"),
    "refinement": (0.8, "refinement changed much"),
}
"""Agreements below which a reason is said, and that: about the lowest quarter of training images have one."""
LOW_SCORE: Final = 0.7
"""A class's probability below it is a reason, too."""
BORDER_SHARE: Final = 0.1
"""So is a mask that takes up more of the image's border."""
OUTLYING: Final = 3.0
"""So is an area whose logarithm lies further from the set's median, in robust standard deviations."""
FEWEST: Final = 10
"""Masks of a class that tell which areas are usual."""
UNUSUAL_AREA: Final = "an unusual area"
"""What is said of an area out of line with the others of its class."""


def working_size(height: int, width: int) -> tuple[int, int]:
    """The size, (height, width), at which the masks of an image are compared: at most ``WORKING_SIZE`` a side."""
    shrunk = min(1.0, WORKING_SIZE / max(height, width))
    return max(1, round(height * shrunk)), max(1, round(width * shrunk))


def shrink_map(cam: Cam) -> Cam:
    """A map (H, W) at ``working_size``."""
    height, width = working_size(*cam.shape)
    small: Cam = cv2.resize(cam, (width, height), interpolation=cv2.INTER_AREA)
    return small


def shrink_mask(mask: Mask) -> Mask:
    """A mask (H, W) at ``working_size``: what is covered by more than half; of a mask too small for that, by any."""
    cover = shrink_map(mask.astype(np.float32))
    small: Mask = cover > 0.5
    return small if small.any() else cover > 0


def view_agreements(views: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """``agreement`` of the masks of all views, as ``VIEWS``, and of those that differ in one thing, by its name in
    ``AXES``, where the others are averaged.

    ``views``: of each network float32 (scales, flips, layers, h, w); each map is scaled to [0, 1] and cut at
    ``VIEW_SHARE`` of its maximum. Of several networks it is the mean. What does not vary is left out.
    """
    found: dict[str, list[float]] = {}
    for maps in views:
        single = maps.reshape(-1, *maps.shape[-2:])
        if len(single) > 1:
            found.setdefault(VIEWS, []).append(agreement([_cut(one) for one in single]))
        for axis, name in enumerate(AXES):
            if maps.shape[axis] > 1:
                others = tuple(other for other in range(len(AXES)) if other != axis)
                found.setdefault(name, []).append(agreement([_cut(one) for one in maps.mean(axis=others)]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def level_agreement(cam: Cam, mask: Mask) -> float:
    """Dice of the mask (H, W) with what the map (H, W) gives ``LEVEL_STEP`` above the mask's level: how much of the
    mask is its core.

    That level is the lowest value of the map in the mask. 0 for an empty mask.
    """
    if not mask.any():
        return 0.0
    top = float(cam.max())
    return agreement([mask, cam >= min(float(cam[mask].min()) + LEVEL_STEP * top, top)])


def quality(agreements: Mapping[str, float], score: float | None = None) -> float | None:
    """How far a mask can be trusted, in [0, 1]: the mean of what is ``COUNTED``; None where no mask was compared.

    ``score``: the class's probability, where a classifier gave one.
    """
    known = [agreements[name] for name in COUNTED if name in agreements]
    if not known:
        return None
    known += [] if score is None else [score]
    return sum(known) / len(known)


def reasons(mask: Mask, agreements: Mapping[str, float], score: float | None, fallback: str | None) -> tuple[str, ...]:
    """What speaks against a mask (H, W) with an object, in words; () where nothing does.

    ``score``: the class's probability, where one decided; ``fallback``: why no refiner did, where one was to.
    """
    found = [words for name, (least, words) in LOW.items() if agreements.get(name, 1.0) < least]
    if score is not None and score < LOW_SCORE:
        found.append("a low class score")
    if fallback is not None:
        found.append(f"not refined: {fallback}")
    if border_share(mask) > BORDER_SHARE:
        found.append("much of the border")
    return tuple(found)


def border_share(mask: Mask) -> float:
    """The share of the image's outermost pixels that lie in the mask (H, W)."""
    border = np.ones(mask.shape, np.bool_)
    border[1:-1, 1:-1] = False
    return float(mask[border].mean())


def unusual_areas(areas: Sequence[float]) -> NDArray[np.bool_]:
    """Which areas > 0 are out of line with the others, bool (N,): further than ``OUTLYING`` from the median logarithm.

    In units of 1.4826 times the median absolute deviation, the standard deviation of a normal distribution. None of
    fewer than ``FEWEST`` is.
    """
    logs = np.log(np.asarray(areas, np.float64))
    if len(logs) < FEWEST:
        return np.zeros(len(logs), np.bool_)
    away = np.abs(logs - np.median(logs))
    result: NDArray[np.bool_] = away > OUTLYING * max(1.4826 * float(np.median(away)), 1e-6)
    return result


def _cut(cam: Cam) -> Mask:
    low, high = float(cam.min()), float(cam.max())
    return cam - low > VIEW_SHARE * (high - low)
