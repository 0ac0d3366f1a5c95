"""How faithful a map is to its classifier: measures of (score function, image, map) that need no true mask.

Beside them stands the pointing game, which needs one. The classifier is known here only by its scores: a function of
images, so that every measure holds for any network, and for any class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from camseg.base.arrays import Cam, Image, Mask, check_cam, check_image, check_mask, check_same_size
from camseg.base.errors import InputError

ScoreFunction: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""Images uint8 (N, H, W, 3) -> the probability of the explained class in each, float (N,) in [0, 1]."""

BLUR = 5 / 224
"""Deviation of the Gaussian that insertion starts from, as a share of the shorter side: 5 of 224 pixels."""
TOLERANCE = 15 / 224
"""How far from the object the pointing game still counts a hit, as a share of the shorter side: 15 of 224 pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A class's score while pixels are exchanged, the highest of the map first."""

    shares: NDArray[np.float64]
    """(steps + 1,) share of the pixels exchanged, from 0 to 1."""
    scores: NDArray[np.float64]
    """(steps + 1,) the score there, in [0, 1]."""

    @property
    def area(self) -> float:
        """The area under the curve by the trapezoid rule, in [0, 1]."""
        from sklearn.metrics import auc  # here: whoever only filters images need not wait for its import

        return float(auc(self.shares, self.scores))


def insertion_curve(
    score: ScoreFunction, image: Image, cam: Cam, *, steps: int = 50, sigma: float | None = None, batch_size: int = 16
) -> Curve:
    """The score while the image's pixels are put into its blurred copy, the highest of the map first.

    image: uint8 (H, W, 3); cam: float (H, W) in [0, 1]; of equal values the pixel in the upper left goes first.
    steps: how many times pixels are exchanged, as equally as whole pixels allow; sigma: the blur's deviation, pixels;
    None: ``BLUR`` of the shorter side. A large area speaks for the map. Raises InputError for other arrays or steps
    below 1.
    Source: Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models"
    (BMVC 2018), the causal metrics; the blur is our own. Their code cuts a Gaussian of 5 pixels to a kernel of 11x11,
    whose deviation is 3.1, so areas of insertion are comparable among each other, not with theirs.
    """
    sigma = BLUR * min(check_image(image).shape[:2]) if sigma is None else sigma
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    return _exchange(score, blurred, image, cam, steps, batch_size)


def deletion_curve(
    score: ScoreFunction,
    image: Image,
    cam: Cam,
    *,
    baseline: ArrayLike = 0,
    steps: int = 50,
    batch_size: int = 16,
) -> Curve:
    """The score while the image's pixels are replaced by ``baseline``, the highest of the map first.

    baseline: a level or a colour from 0 to 255; RISE takes what is zero after normalisation, the mean colour. The rest
    is as in ``insertion_curve``; here a small area speaks for the map.
    Source: as there.
    """
    empty = np.empty_like(check_image(image))
    empty[:] = np.rint(baseline)
    return _exchange(score, image, empty, cam, steps, batch_size)


def filter_image(image: Image, weights: Cam | Mask) -> Image:
    """The image multiplied by a map or mask (H, W), rounded: black where the weight is 0, unchanged where it is 1.

    Raises InputError for other arrays or sizes that differ.
    """
    weights = check_mask(weights) if weights.dtype == np.bool_ else check_cam(weights)
    check_same_size(check_image(image), weights, "image and weights")
    filtered: Image = np.rint(image * weights.astype(np.float32)[..., None]).astype(np.uint8)
    return filtered


def confidences(score: ScoreFunction, image: Image, cam: Cam) -> tuple[float, float]:
    """The score of the image (Y), and of the image multiplied by its map (O), each in [0, 1]."""
    full, filtered = np.asarray(score(np.stack([image, filter_image(image, cam)])), np.float64)
    return float(full), float(filtered)


def confidence_drop(full: float, filtered: float) -> float:
    """max(0, Y - O) / Y for the scores of ``confidences``, in [0, 1]; 0 where Y is 0.

    Its mean over images is the average drop, which is small for maps that keep what the classifier looks at.
    Source: Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep
    Convolutional Networks" (WACV 2018).
    """
    return max(0.0, full - filtered) / full if full > 0 else 0.0


def confidence_rises(full: float, filtered: float) -> bool:
    """Whether Y < O for the scores of ``confidences``; the share of such images is the increase in confidence.

    Source: as in ``confidence_drop``.
    """
    return full < filtered


def pointing_hit(cam: Cam, mask: Mask, *, tolerance: float | None = None) -> bool:
    """Whether the map's highest pixel lies in the true mask, or within ``tolerance`` pixels of it.

    cam: float (H, W) in [0, 1]; mask: bool (H, W), not empty. Of several highest pixels the one in the upper left
    counts; a map of zeros points nowhere and misses. tolerance: None is ``TOLERANCE`` of the shorter side, as the
    paper's 15 pixels are of images brought to 224. Raises InputError for other arrays or an empty mask.
    Source: Zhang et al., "Top-Down Neural Attention by Excitation Backprop" (IJCV 2018), the pointing game.
    """
    check_same_size(check_cam(cam), check_mask(mask), "map and true mask")
    if not mask.any():
        raise InputError("expected a mask with an object to point at; got an empty one")
    if not cam.any():
        return False
    tolerance = TOLERANCE * min(mask.shape) if tolerance is None else tolerance
    row, column = np.unravel_index(cam.argmax(), cam.shape)
    rows, columns = np.nonzero(mask)
    return bool(np.hypot(rows - row, columns - column).min() <= tolerance)


def _exchange(score: ScoreFunction, before: Image, after: Image, cam: Cam, steps: int, batch_size: int) -> Curve:
    """The score while the pixels of ``before`` become those of ``after``, the highest of the map first."""
    check_same_size(before, check_cam(cam), "image and map")
    if steps < 1 or batch_size < 1:
        raise InputError(f"expected at least 1 step and a batch of at least 1; got {steps} and {batch_size}")
    steps = min(steps, cam.size)
    places = np.empty(cam.size, np.int64)  # of each pixel in the order of the map
    places[np.argsort(-cam, axis=None, kind="stable")] = np.arange(cam.size)
    counts = np.rint(np.linspace(0, cam.size, steps + 1)).astype(np.int64)
    scores = []
    for start in range(0, len(counts), batch_size):
        some = counts[start : start + batch_size, None, None]
        done = places.reshape(cam.shape) < some  # (n, H, W)
        images = np.where(done[..., None], after, before)  # (n, H, W, 3)
        scores.append(np.asarray(score(images), np.float64))
    return Curve(shares=counts / cam.size, scores=np.concatenate(scores))
