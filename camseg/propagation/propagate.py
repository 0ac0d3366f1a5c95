"""(Image, Cam) -> Cam: a map spread over what looks alike, before any threshold.

A propagator is a pure function of a guide, the image or the classifier's features, and of maps on the guide's
grid. ``propagate`` brings both to that grid and the result back.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from camseg.base.arrays import Cam, Image, check_cam, check_image, check_same_size
from camseg.base.errors import InputError
from camseg.base.registry import choose
from camseg.propagation.parameters import GridSettings
from camseg.propagation.registry import METHODS
from camseg.propagation.settings import PropagateSettings


def propagate(
    image: Image,
    cam: Cam,
    method: str = PropagateSettings.method,
    *,
    settings: GridSettings | None = None,
    features: NDArray[np.float32] | None = None,
    device: str | torch.device = "cpu",
) -> Cam:
    """Spread one map over the pixels that look alike: uint8 (H, W, 3) and float (H, W) -> float32 (H, W).

    ``settings`` are the method's own. ``features``, float32 (C, h, w), are what a layer of the classifier gave for
    the whole image; only methods with that guide read them. The result is scaled to a largest value of 1; an
    all-zero map stays so. Raises InputError for other arrays or settings, sizes that differ, an unknown method, or
    features that are missing.
    """
    chosen = choose("propagation", method, METHODS)
    settings = chosen.settings() if settings is None else settings  # type: ignore[call-arg]  # each has its defaults
    if type(settings) is not chosen.settings:
        raise InputError(f"expected {chosen.settings.__name__} for {method}, got {type(settings).__name__}")
    cam = check_cam(cam)
    height, width = check_image(image).shape[:2]
    check_same_size(image, cam, "image and map")
    if chosen.guide == "features" and features is None:
        raise InputError(f"{method} walks over the classifier's features; pass --classifier (in Python: features)")
    if not cam.any():
        return np.zeros(cam.shape, np.float32)
    if chosen.guide == "image":
        size = _grid(height, width, settings.working_size)
        pixels = torch.from_numpy(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)).to(device)
        guide = pixels.permute(2, 0, 1)[None].float() / 255.0  # (1, 3, h, w)
    else:
        cells = torch.from_numpy(_check_features(features)).to(device)[None]  # (1, C, h, w)
        size = _grid(cells.shape[2], cells.shape[3], settings.working_size)
        guide = functional.adaptive_avg_pool2d(cells, size)
    maps = torch.from_numpy(cv2.resize(cam, size[::-1], interpolation=cv2.INTER_AREA)).to(device)[None, None]
    with torch.inference_mode():
        spread = chosen.load()(guide, maps, settings)[0, 0]
    grown = cv2.resize(spread.cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    if not np.isfinite(grown).all():
        raise InputError(f"{method} gives no numbers with {settings}; choose less extreme settings")
    scaled: Cam = np.clip(grown / max(float(grown.max()), 1e-12), 0.0, 1.0)
    return scaled


def _grid(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) of the working grid."""
    factor = min(1.0, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _check_features(features: object) -> NDArray[np.float32]:
    if not isinstance(features, np.ndarray) or features.dtype != np.float32 or features.ndim != 3 or not features.size:
        what = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
        raise InputError(f"expected the features of one image, float32 (C, h, w); got {what}")
    if not np.isfinite(features).all():
        raise InputError("expected finite features; got infinity or NaN")
    return features
