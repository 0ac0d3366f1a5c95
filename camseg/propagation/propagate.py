"""(Image, Cam) -> Cam: a map spread over what looks alike, before any threshold.

A propagator is a pure function of a guide, the image or the classifier's features, and of maps on the guide's
grid. ``propagate`` brings both to that grid and the result back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from camseg.base.arrays import Cam, Image, check_cam, check_image, check_same_size
from camseg.base.errors import InputError
from camseg.propagation.crf import CrfSettings, crf
from camseg.propagation.guided import GuidedSettings, guided
from camseg.propagation.par import ParSettings, par
from camseg.propagation.settings import Settings
from camseg.propagation.superpixels import SuperpixelSettings, superpixels
from camseg.propagation.walk import WalkSettings, random_walk

__all__ = ["METHODS", "CrfSettings", "GuidedSettings", "Method", "ParSettings", "Settings", "SuperpixelSettings"]
__all__ += ["WalkSettings", "check_settings", "crf", "guided", "make_settings", "par", "propagate", "random_walk"]
__all__ += ["superpixels"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One propagator."""

    function: Callable[[Tensor, Tensor, Any], Tensor]
    """Guides (N, C, h, w) and maps (N, K, h, w) -> maps (N, K, h, w)."""
    settings: type[Settings]
    """The class of its settings; called without arguments it gives the defaults."""
    guide: Literal["image", "features"] = "image"
    """``image``: pixels (N, 3, h, w) in [0, 1]. ``features``: what a layer of the classifier gave, (N, C, h, w)."""
    paper: str
    """Where it was published."""


METHODS: Final[Mapping[str, Method]] = {
    "par": Method(function=par, settings=ParSettings, paper="Ru et al., CVPR 2022"),
    "crf": Method(function=crf, settings=CrfSettings, paper="Kraehenbuehl and Koltun, NIPS 2011"),
    "guided": Method(function=guided, settings=GuidedSettings, paper="He, Sun and Tang, PAMI 2013"),
    "superpixels": Method(function=superpixels, settings=SuperpixelSettings, paper="Achanta et al., PAMI 2012"),
    "random-walk": Method(
        function=random_walk, settings=WalkSettings, guide="features", paper="Ahn and Kwak, CVPR 2018"
    ),
}


def propagate(
    image: Image,
    cam: Cam,
    method: str = "par",
    *,
    settings: Settings | None = None,
    features: NDArray[np.float32] | None = None,
    device: str | torch.device = "cpu",
) -> Cam:
    """Spread one map over the pixels that look alike: uint8 (H, W, 3) and float (H, W) -> float32 (H, W).

    ``settings`` are the method's own. ``features``, float32 (C, h, w), are what a layer of the classifier gave for
    the whole image; only methods with that guide read them. The result is scaled to a largest value of 1; an
    all-zero map stays so. Raises InputError for other arrays or settings, sizes that differ, an unknown method, or
    features that are missing.
    """
    if settings is None:
        settings = make_settings(method, {})
    check_settings(method, settings)
    chosen = METHODS[method]
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
        spread = chosen.function(guide, maps, settings)[0, 0]
    grown = cv2.resize(spread.cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    if not np.isfinite(grown).all():
        raise InputError(f"{method} gives no numbers with {settings}; choose less extreme settings")
    return np.clip(grown / max(float(grown.max()), 1e-12), 0.0, 1.0)


def make_settings(method: str, values: Mapping[str, Any]) -> Settings:
    """A method's settings: its defaults, but for the fields named here; lists stand for tuples.

    Raises InputError for an unknown method or field, or a value of another type or outside the field's range.
    """
    chosen = _method(method).settings
    defaults = {field.name: field.default for field in fields(chosen)}
    given = {}
    for name, value in values.items():
        if name not in defaults:
            raise InputError(f"{method} has no setting {name!r}; it has {', '.join(defaults)}")
        given[name] = _like(value, defaults[name], f"{method}'s {name}")
    return chosen(**given)


def check_settings(method: str, settings: Settings) -> None:
    """Raise InputError unless the method is known and the settings are of its own class."""
    chosen = _method(method).settings
    if type(settings) is not chosen:
        raise InputError(f"expected {chosen.__name__} for {method}, got {type(settings).__name__}")


def _method(name: str) -> Method:
    if name not in METHODS:
        raise InputError(f"unknown propagation {name!r}; choose among {', '.join(METHODS)}")
    return METHODS[name]


def _like(value: Any, default: Any, name: str) -> Any:
    """A value of the default's type, int, float or a tuple of int; InputError where it is of another."""
    if type(value) is type(default) is int:
        return value
    if isinstance(default, float) and type(value) in (int, float) and abs(value) < 1e30:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list | tuple) and all(type(one) is int for one in value):
        return tuple(value)
    wanted = {int: "a whole number", float: "a number", tuple: "a list of whole numbers, as in [1,2,4]"}
    raise InputError(f"expected {wanted[type(default)]} for {name}, got {value!r}")


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
