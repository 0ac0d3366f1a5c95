"""(Image, Cam) -> Cam: a map spread along the image's own edges, before any threshold."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from camseg.arrays import Cam, Image, check_cam, check_image, check_same_size
from camseg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ParSettings:
    """Pixel-adaptive refinement; the defaults are those of the results table."""

    working_size: int = 128
    """Longest side, in pixels, of the grid on which maps are spread; smaller images keep their size."""
    rounds: int = 10
    """How often every pixel is averaged with its neighbours."""
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12)
    """Distances of the rings of eight neighbours, in pixels of the working grid."""
    color_width: float = 0.3
    """Colour differences are divided by this many local standard deviations: smaller keeps to edges more."""
    position_weight: float = 0.01
    """Weight of nearness beside likeness of colour."""

    def __post_init__(self) -> None:
        if self.working_size < 8 or self.rounds < 0:
            raise InputError(f"expected a working size of at least 8 and rounds of at least 0, got {self}")
        if not self.dilations or min(self.dilations) < 1:
            raise InputError(f"expected dilations of at least 1 pixel, got {self.dilations}")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One propagator."""

    function: Callable[[Tensor, Tensor, ParSettings], Tensor]
    """Images (N, 3, h, w) in [0, 1] and maps (N, K, h, w) -> maps (N, K, h, w)."""
    paper: str
    """Where it was published."""


def par(images: Tensor, maps: Tensor, settings: ParSettings) -> Tensor:
    """Pixel-adaptive refinement of maps (N, K, h, w) by images (N, 3, h, w) -> (N, K, h, w).

    Every pixel i becomes sum_j w_ij m_j over its neighbours j, the rings of eight at each dilation:
    w_ij = softmax_j(-mean_c (|x_i - x_j| / (s_i a))^2) + b softmax_j(-(|i - j| / (s' a))^2), with s_i the
    standard deviation of the colours, s' of the distances, over the neighbours of i, a the colour width
    and b the position weight, divided by 1 + b. Repeated for ``rounds``. Neighbours beyond the border
    repeat the border's pixel.

    Ru et al., Learning Affinity from Attention, CVPR 2022, section 3.3, equations 7 to 9.
    """
    offsets = [
        (row * d, column * d)
        for d in settings.dilations
        for row in (-1, 0, 1)
        for column in (-1, 0, 1)
        if (row, column) != (0, 0)
    ]
    neighbours = _shifted(images, offsets)  # (N, 3, P, h, w)
    deviation = neighbours.std(dim=2, keepdim=True)
    likeness = -(((neighbours - images[:, :, None]).abs() / (deviation + 1e-8) / settings.color_width) ** 2)
    colors = likeness.mean(dim=1, keepdim=True).softmax(dim=2)  # (N, 1, P, h, w)
    distances = torch.tensor([math.hypot(*offset) for offset in offsets], device=images.device)
    nearness = (-((distances / (distances.std() + 1e-8) / settings.color_width) ** 2)).softmax(dim=0)
    weights = (colors + settings.position_weight * nearness.view(1, 1, -1, 1, 1)) / (1.0 + settings.position_weight)
    for _ in range(settings.rounds):
        maps = (_shifted(maps, offsets) * weights).sum(dim=2)  # (N, K, P, h, w) -> (N, K, h, w)
    return maps


METHODS: Final[Mapping[str, Method]] = {
    "par": Method(function=par, paper="Ru et al., CVPR 2022"),
}


def propagate(
    image: Image,
    cam: Cam,
    method: str = "par",
    *,
    settings: ParSettings | None = None,
    device: str | torch.device = "cpu",
) -> Cam:
    """Spread one map over the pixels that look alike: uint8 (H, W, 3) and float (H, W) -> float32 (H, W).

    The result is scaled to a largest value of 1; an all-zero map stays so. Raises InputError for other
    arrays, sizes that differ, or an unknown method.
    """
    if method not in METHODS:
        raise InputError(f"unknown propagation {method!r}; choose among {', '.join(METHODS)}")
    settings = settings or ParSettings()
    cam = check_cam(cam)
    check_same_size(check_image(image), cam, "image and map")
    if not cam.any():
        return np.zeros(cam.shape, np.float32)
    height, width = image.shape[:2]
    factor = min(1.0, settings.working_size / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small_image, small_cam = (cv2.resize(array, size, interpolation=cv2.INTER_AREA) for array in (image, cam))
    pixels = torch.from_numpy(small_image).to(device).permute(2, 0, 1)[None].float() / 255.0  # (1, 3, h, w)
    with torch.inference_mode():
        spread = METHODS[method].function(pixels, torch.from_numpy(small_cam).to(device)[None, None], settings)
    grown = cv2.resize(spread[0, 0].cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(grown / max(float(grown.max()), 1e-12), 0.0, 1.0)


def _shifted(values: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """(N, C, h, w) -> (N, C, P, h, w): for each offset the value that many rows down and columns right."""
    height, width = values.shape[2:]
    reach = max(max(abs(row), abs(column)) for row, column in offsets)
    padded = functional.pad(values, (reach, reach, reach, reach), mode="replicate")
    return torch.stack(
        [padded[:, :, reach + r : reach + r + height, reach + c : reach + c + width] for r, c in offsets], dim=2
    )
