"""The maps of views (scales, mirror images, layers) -> one map per image and target."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from camseg.cams.capture import Capture, Forward
from camseg.cams.methods.registry import METHODS
from camseg.cams.plan import MemberPlan

Targets: TypeAlias = Sequence[Sequence[int]]
"""For each image of a batch its target classes, as indices; none at all is allowed."""
_COVER: Final = 0.25
"""The share of the image that maps cover when scale 1 suits the object best."""
_SPREAD: Final = 0.5
"""Deviation of the weights over the logarithm of the scale."""
VIEW_SIDE: Final = 64
"""Height and width at which single views' maps are kept: finer than most of them are."""
_GAIN: Final = 2.0
"""Finer layers' maps are passed through tanh(gain * map), as Jiang et al. do (LayerCAM, equation 9)."""


class Fusion:
    """The sums of views' maps, kept apart by scale and size until all are in; with ``apart`` each view too, small."""

    def __init__(self, plan: MemberPlan, live: Sequence[int], depth: int, *, apart: bool = False) -> None:
        self.plan, self.depth, self.apart = plan, depth, apart
        self.place = {n: place for place, n in enumerate(live)}
        self.sums: dict[tuple[str, float, int, int], Tensor] = {}
        self.single: dict[tuple[str, float, bool, int], Tensor] = {}

    def add(self, view: Forward, targets: Targets, images: Sequence[int], scale: float, mirrored: bool) -> None:
        """Take in the maps of one pass over ``images``; those that are not live were there for their scores."""
        live = [row for row, n in enumerate(images) if n in self.place]
        places = [self.place[images[row]] for row in live]
        for k in range(self.depth):
            # An image with fewer targets repeats its first one; that map is not read.
            row = [(targets[n][k] if k < len(targets[n]) else targets[n][0]) if targets[n] else 0 for n in images]
            captures = view.toward(row)
            if len(live) < len(images):
                captures = tuple(capture.only(live) for capture in captures)
            for name in self.plan.settings.methods:
                # What is read at the input does not depend on the layer.
                of = captures if METHODS[name].at == "layer" else captures[-1:]
                coarsest = min(capture.activations.shape[-1] for capture in of)
                for layer, capture in enumerate(of):
                    maps = self._maps(name, capture, coarsest, mirrored) / len(of)  # (live, h, w)
                    if self.apart:
                        self._keep((name, scale, mirrored, layer), maps, places, k)
                    key = (name, scale, *maps.shape[1:])
                    if key not in self.sums:
                        self.sums[key] = maps.new_zeros(len(self.place), self.depth, *maps.shape[1:])
                    self.sums[key][places, k] += maps

    def grids(self, name: str, side: int) -> Tensor:
        """One method's fused maps (live, depth, side, side)."""
        views: dict[float, Tensor] = {}
        for (method, scale, *_), maps in self.sums.items():
            if method == name:
                grid = functional.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
                views[scale] = views[scale] + grid if scale in views else grid
        settings = self.plan.settings
        stack = torch.stack(list(views.values())) / (2 if settings.mirrors else 1)  # (scales, live, depth, side, side)
        if not settings.weighs:
            return stack.mean(dim=0)
        return (stack * scale_weights(stack, tuple(views))[..., None, None]).sum(dim=0)

    def views(self, name: str) -> Tensor:
        """One method's maps as each view gave them (live, depth, scales, flips, layers, side, side), the sides
        ``VIEW_SIDE``; views differ in scale, in whether they are mirrored, and in the layer."""
        one = {key[1:]: maps for key, maps in self.single.items() if key[0] == name}
        # Every scale was seen by every flip and layer, in this order.
        counts = [len({key[axis] for key in one}) for axis in range(3)]
        return torch.stack([one[key] for key in sorted(one)], 2).unflatten(2, counts)

    def _keep(self, key: tuple[str, float, bool, int], maps: Tensor, places: Sequence[int], k: int) -> None:
        small = functional.interpolate(maps[None], (VIEW_SIDE, VIEW_SIDE), mode="bilinear", align_corners=False)[0]
        if key not in self.single:
            self.single[key] = small.new_zeros(len(self.place), self.depth, VIEW_SIDE, VIEW_SIDE)
        self.single[key][places, k] = small

    def _maps(self, name: str, capture: Capture, coarsest: int, mirrored: bool) -> Tensor:
        settings = self.plan.settings
        maps: Tensor = METHODS[name].load()(replace(capture, score_channels=settings.score_channels)).clamp_min(0)
        if METHODS[name].at == "layer":
            maps = capture.network.over_input(maps, capture.inputs.shape[-1])
        maps = maps.flip(2) if mirrored else maps
        if settings.raw:
            return maps
        maps = _over_maximum(maps)
        # A finer layer's map is a few sharp peaks on little; beside a coarse one it counts for more if they are cut.
        return (_GAIN * maps).tanh() if capture.activations.shape[-1] > coarsest else maps


def scale_weights(maps: Tensor, scales: Sequence[float]) -> Tensor:
    """How much each scale's maps (scales, ..., S, S) count for each image: (scales, ...), their sum 1.

    An object is mapped best where it spans the network's input about as the training images' objects did: enlarged
    where it is small, whole where it is large. How large it is the maps say themselves: the mean of their
    equally weighted fusion, scaled to [0, 1], is the share of the image that they cover. Weights fall off as a Gaussian
    of the logarithm of the scale around the one that would bring that share to a quarter.
    """
    fused = maps.mean(dim=0)  # (..., S, S)
    low, high = fused.amin(dim=(-2, -1)), fused.amax(dim=(-2, -1))
    cover = (fused.mean(dim=(-2, -1)) - low) / (high - low).clamp_min(1e-12)
    steps = torch.tensor(scales, device=maps.device).log().reshape(-1, *[1] * cover.ndim)  # (scales, 1, ...)
    wanted = (0.5 * (_COVER / cover.clamp_min(1e-3)).log()).clamp(math.log(min(scales)), math.log(max(scales)))
    return (-((steps - wanted) ** 2) / (2 * _SPREAD**2)).softmax(dim=0)


def _over_maximum(maps: Tensor) -> Tensor:
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest, 0.0)
