"""One batch through the network at every scale and mirrored, and the fusion of those views' maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from camseg.activations import Forward, Score, find_layer, forward
from camseg.arrays import Cam, Image
from camseg.cams.methods import METHODS, check_methods
from camseg.classifier import Classifier
from camseg.errors import InputError

Targets: TypeAlias = Sequence[Sequence[int]]
"""For each image of a batch its target classes, as indices; none at all is allowed."""


@dataclass(frozen=True, kw_only=True)
class CamSettings:
    """How maps are extracted; checked when made."""

    methods: tuple[str, ...] = ("layercam",)
    """Names in METHODS."""
    scales: tuple[float, ...] = (1.0,)
    """Sides of the network's input, relative to the classifier's image size; maps are averaged."""
    flip: bool = False
    """Also run every scale mirrored left to right."""
    score: Score = "class"
    """What gradients are taken of: the target's logit, or its margin over the best negative class."""
    layer: str = "auto"
    """A module's name in the network, or ``auto``: the last one with a spatial map."""
    raw: bool = False
    """Leave maps unnormalised, so that values compare across images."""
    gate: bool = True
    """Give targets that are negative classes all-zero maps."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", check_methods(self.methods))
        if not self.scales or any(not 0.1 <= scale <= 8.0 for scale in self.scales):
            raise InputError(f"expected scales between 0.1 and 8, got {list(self.scales)}")
        if len(set(self.scales)) < len(self.scales):
            raise InputError(f"expected different scales, got {list(self.scales)}")
        if self.score not in ("class", "margin"):
            raise InputError(f"expected score class or margin, got {self.score!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchCams:
    """The fused maps of one batch."""

    maps: Mapping[str, list[list[NDArray[np.float32]]]]
    """Per method, image and target: float32 (S, S), >= 0, unnormalised, in the layout of the network's input."""
    targets: Targets
    """The targets that were used."""
    probabilities: NDArray[np.float32]
    """(N, classes) at scale 1."""


def view_scales(settings: CamSettings) -> tuple[float, ...]:
    """The scales at which inputs are needed: scale 1 first, where scores are read, then the others."""
    return (1.0, *(scale for scale in settings.scales if scale != 1.0))


def stack_inputs(inputs: Sequence[Sequence[Image]]) -> list[Tensor]:
    """Per image a square for each of ``view_scales`` -> per scale uint8 (N, s, s, 3)."""
    return [torch.from_numpy(np.stack(squares)) for squares in zip(*inputs, strict=True)]


def extract(
    classifier: Classifier,
    squares: Sequence[Tensor],
    choose: Callable[[NDArray[np.float32]], Targets],
    settings: CamSettings,
) -> BatchCams:
    """Maps of one batch for every method, fused over scales and mirror images.

    ``squares``: per scale of ``view_scales`` uint8 (N, s, s, 3). ``choose`` picks the targets from the
    probabilities (N, classes). Every view's maps are divided by their own maximum before they are
    averaged, so that each view has one voice; with ``raw`` they are averaged as they are. Images without
    a target that needs a map take part in the first pass only.
    """
    layer = find_layer(classifier) if settings.layer == "auto" else settings.layer
    gradients = any(METHODS[name].needs == "gradients" for name in settings.methods)
    first = forward(classifier, classifier.normalise(squares[0]), layer=layer, gradients=gradients)
    probabilities = classifier.probabilities(first.logits).cpu().numpy()
    targets = choose(probabilities)

    gated = {classifier.class_index(name) for name in classifier.negative} if settings.gate else set()
    live = [n for n, row in enumerate(targets) if set(row) - gated]
    depth = max((len(targets[n]) for n in live), default=0)
    side = classifier.image_size
    totals = {name: torch.zeros(len(targets), depth, side, side, device=classifier.device) for name in settings.methods}

    def add(view: Forward, images: Sequence[int], mirrored: bool) -> None:
        for k in range(depth):
            # An image with fewer targets repeats its first one; that map is not read.
            row = [(targets[n][k] if k < len(targets[n]) else targets[n][0]) if targets[n] else 0 for n in images]
            captured = view.toward(row, settings.score)
            if len(live) < len(images):  # the first pass, which was for the scores of all
                captured = captured.only(live)
            for name in settings.methods:
                maps = METHODS[name].function(captured).clamp_min(0)  # (n, h, w)
                maps = maps.flip(2) if mirrored else maps
                maps = maps if settings.raw else _over_maximum(maps)
                grid = functional.interpolate(maps[:, None], size=(side, side), mode="bilinear", align_corners=False)
                totals[name][live, k] += grid[:, 0]

    views = 0
    for scale, square in zip(view_scales(settings), squares, strict=True):
        if scale not in settings.scales:
            continue
        for mirrored in (False, True) if settings.flip else (False,):
            views += 1
            if scale == 1.0 and not mirrored:
                add(first, range(len(targets)), mirrored=False)
            elif live:
                x = classifier.normalise(square[live])
                x = x.flip(3) if mirrored else x
                add(forward(classifier, x, layer=layer, gradients=gradients), live, mirrored)

    maps = {}
    for name, total in totals.items():
        grids = (total / views).cpu().numpy()
        zero = np.zeros((side, side), np.float32)
        maps[name] = [
            [zero if target in gated else grids[n, k] for k, target in enumerate(row)] for n, row in enumerate(targets)
        ]
    return BatchCams(maps=maps, targets=targets, probabilities=probabilities)


def to_image_size(classifier: Classifier, grid: NDArray[np.float32], height: int, width: int, raw: bool) -> Cam:
    """A fused map (S, S) in the layout of the network's input -> float32 (height, width) over the image.

    Scaled so that the smallest value is 0 and the largest 1, unless ``raw``; a constant map, which says
    nothing of place, becomes all zero.
    """
    side = len(grid)
    top, left, tall, wide = (round(share * side) for share in classifier.content_box(height, width))
    content = grid[top : top + max(1, tall), left : left + max(1, wide)]
    cam = cv2.resize(content, (width, height), interpolation=cv2.INTER_LINEAR)
    if raw:
        return cam
    low, high = float(cam.min()), float(cam.max())
    if high - low <= 1e-6 * high or high <= 0.0:
        return np.zeros((height, width), np.float32)
    return np.clip((cam - low) / (high - low), 0.0, 1.0)


def _over_maximum(maps: Tensor) -> Tensor:
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest, 0.0)
