"""One batch through the network at every scale and mirrored, and the fusion of those views' maps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from camseg.base.arrays import Cam, Image
from camseg.base.errors import InputError
from camseg.base.progress import Say, unheard
from camseg.cams.capture import PRECISIONS, Capture, Forward, Network, Precision, Score, network
from camseg.cams.methods.registry import METHODS, check_methods
from camseg.classify.classifier import AnyClassifier, Classifier

Targets: TypeAlias = Sequence[Sequence[int]]
"""For each image of a batch its target classes, as indices; none at all is allowed."""
Choose: TypeAlias = Callable[[int, NDArray[np.float32]], Sequence[int]]
"""(index in the batch, probabilities (classes,)) -> that image's targets."""
Scales: TypeAlias = tuple[float, ...] | Literal["auto"]
"""Sides of the network's input, relative to the classifier's image size, or ``auto``."""
AUTO_SCALES: Final = (0.75, 1.0, 1.5, 2.0)
"""What ``auto`` weighs, as far as the network takes inputs of these sizes."""
_COVER: Final = 0.25
"""The share of the image that maps cover when scale 1 suits the object best."""
_SPREAD: Final = 0.5
"""Deviation of the weights over the logarithm of the scale."""
_GAIN: Final = 2.0
"""Finer layers' maps are passed through tanh(gain * map), as Jiang et al. do (LayerCAM, equation 9)."""


@dataclass(frozen=True, kw_only=True)
class CamSettings:
    """How maps are extracted; checked when made."""

    methods: tuple[str, ...] = ("layercam",)
    """Names in METHODS."""
    scales: Scales = (1.0,)
    """Sides of the network's input, relative to the classifier's image size; maps are averaged. ``auto``: 0.75, 1,
    1.5 and 2, weighed for every image by the size of the object (``scale_weights``)."""
    flip: bool = False
    """Also run every scale mirrored left to right."""
    score: Score = "class"
    """What gradients are taken of: the target's logit, or its margin over the best negative class."""
    layers: tuple[str, ...] = ("auto",)
    """Modules' names in the network; ``auto``: the last one whose map the scores depend on; ``stages``: that one and
    the last with a finer map. Maps of several are averaged, those of finer layers as tanh(2 M) for a maximum of 1."""
    score_channels: int | None = None
    """scorecam tries only this many channels of every image, those that vary most over it; None: all."""
    precision: Precision = "float32"
    """Numbers that the network calculates with up to the layer."""
    raw: bool = False
    """Leave maps unnormalised, so that values compare across images."""
    gate: bool = True
    """Give targets that are negative classes all-zero maps."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", check_methods(self.methods))
        if isinstance(self.scales, str):
            if self.scales != "auto":
                raise InputError(f"expected scales as numbers, or auto; got {self.scales!r}")
        elif not self.scales or any(not 0.1 <= scale <= 8.0 for scale in self.scales):
            raise InputError(f"expected scales between 0.1 and 8, got {list(self.scales)}")
        elif len(set(self.scales)) < len(self.scales):
            raise InputError(f"expected different scales, got {list(self.scales)}")
        if self.score not in ("class", "margin"):
            raise InputError(f"expected score class or margin, got {self.score!r}")
        if self.score_channels is not None and self.score_channels < 1:
            raise InputError(f"expected at least 1 channel for scorecam to try, got {self.score_channels}")
        if self.precision not in PRECISIONS:
            raise InputError(f"expected precision {', '.join(PRECISIONS)}; got {self.precision!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberPlan:
    """Settings made ready for one network: its layers found, its scales tried."""

    network: Network
    """The network toward the settings' score and layers."""
    settings: CamSettings
    """What was asked for."""
    scales: tuple[float, ...]
    """The scales whose maps are fused."""

    @property
    def input_scales(self) -> tuple[float, ...]:
        """The scales at which inputs are needed: scale 1 first, where scores are read, then the others."""
        return (1.0, *(scale for scale in self.scales if scale != 1.0))

    @property
    def gradients(self) -> bool:
        """Whether a method needs the gradients of the score."""
        return any(METHODS[name].needs == "gradients" for name in self.settings.methods)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Settings made ready for a classifier: for its one network, or for each member of an ensemble."""

    classifier: AnyClassifier
    """What decides."""
    settings: CamSettings
    """What was asked for."""
    members: tuple[MemberPlan, ...]
    """In the order of the classifier's."""

    @property
    def windows(self) -> tuple[str, ...]:
        """In which windows ``inputs`` needs an image."""
        return tuple(dict.fromkeys(member.window for member in self.classifier.members))

    def inputs(self, views: Mapping[str, Image]) -> list[Image]:
        """The squares of one image, for each member and each of its input scales; ``views``: the image by window."""
        return [
            classifier.to_input(views[classifier.window], scale)
            for classifier, member in zip(self.classifier.members, self.members, strict=True)
            for scale in member.input_scales
        ]


Grids: TypeAlias = tuple[NDArray[np.float32], ...]
"""Each member's fused map: float32 (S, S), >= 0, unnormalised, in the layout of that network's input."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchCams:
    """The fused maps of one batch."""

    maps: Mapping[str, list[list[Grids]]]
    """Per method, image and target."""
    targets: Targets
    """The targets that were used."""
    probabilities: NDArray[np.float32]
    """(N, classes) at scale 1."""


class BatchLimit:
    """How many images the device's memory takes at once: halved, and once said, when it runs out."""

    def __init__(self, say: Say = unheard) -> None:
        self.size: int | None = None
        self.say = say

    def halve(self, tried: int) -> None:
        """Take note that ``tried`` images were too many."""
        if self.size is None:
            self.say(f"{tried} images at once do not fit into the device's memory; going on with smaller batches")
        self.size = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def plan(classifier: AnyClassifier, settings: CamSettings) -> Plan:
    """Find the layers, and see that the network takes inputs of every scale; ``auto`` leaves out those it does not.

    Of an ensemble each member has its own layers and scales. Raises InputError or LayerError for a layer, scale or
    score that cannot be had.
    """
    members = tuple(_plan_member(member, settings) for member in classifier.members)
    return Plan(classifier=classifier, settings=settings, members=members)


def _plan_member(classifier: Classifier, settings: CamSettings) -> MemberPlan:
    chosen = network(classifier, layers=settings.layers, score=settings.score, precision=settings.precision)
    given = AUTO_SCALES if settings.scales == "auto" else settings.scales
    ready = MemberPlan(network=chosen, settings=settings, scales=given)
    refused = {scale: problem for scale in ready.input_scales if (problem := _refusal(ready, scale))}
    for scale, problem in refused.items():
        if scale == 1.0 or settings.scales != "auto":
            raise InputError(problem)
    return replace(ready, scales=tuple(scale for scale in given if scale not in refused))


_REFUSALS: WeakKeyDictionary[nn.Module, dict[tuple, str | None]] = WeakKeyDictionary()


def _refusal(ready: MemberPlan, scale: float) -> str | None:
    """Why the network cannot take inputs of a scale, found by a dry run once; None when it can."""
    classifier = ready.network.classifier
    side = max(1, round(scale * classifier.image_size))
    known = _REFUSALS.setdefault(classifier.model, {})
    key = (side, ready.network.layers, tuple(ready.network.rivals), ready.gradients)
    if key not in known:
        blank = classifier.normalise(torch.zeros(1, side, side, 3, dtype=torch.uint8))
        try:
            ready.network.forward(blank, gradients=ready.gradients).toward([0])
            known[key] = None
        except torch.OutOfMemoryError:
            raise  # which says something of the device at this moment, not of the network
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            words = " ".join(str(error).split())[:200]
            known[key] = f"{classifier.arch} cannot take inputs of {side} pixels ({words}); choose other --scales"
    return known[key]


def stack_inputs(inputs: Sequence[Sequence[Image]]) -> list[Tensor]:
    """Per image its squares, as ``Plan.inputs`` gives them -> for each of these uint8 (N, s, s, 3)."""
    return [torch.from_numpy(np.stack(squares)) for squares in zip(*inputs, strict=True)]


def extract(plan: Plan, squares: Sequence[Tensor], choose: Choose, limit: BatchLimit | None = None) -> BatchCams:
    """Maps of one batch for every method, fused over scales, mirror images and layers.

    ``squares``: as ``stack_inputs`` gives them. Every view's maps are divided by
    their own maximum before they are averaged, so that each view has one voice (``scale_weights`` decides otherwise
    with the scales ``auto``); with ``raw`` they are averaged as they are. Images without a target that needs a map
    take part in the first pass only. A batch that does not fit into the device's memory is halved, and later ones
    are cut as small.
    """
    limit = limit or BatchLimit()
    count, parts, start = len(squares[0]), [], 0
    while start < count:
        size = min(limit.size or count, count - start)
        rows = slice(start, start + size)
        try:
            parts.append(_extract([square[rows] for square in squares], plan, _from(choose, start)))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        else:
            start += size
            continue
        limit.halve(size)  # only now: what the error held on to is free
    return BatchCams(
        maps={name: [image for part in parts for image in part.maps[name]] for name in plan.settings.methods},
        targets=[row for part in parts for row in part.targets],
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )


def _from(choose: Choose, start: int) -> Choose:
    return lambda n, probabilities: choose(start + n, probabilities)


def _extract(squares: Sequence[Tensor], plan: Plan, choose: Choose) -> BatchCams:
    rest = iter(squares)
    own = [[next(rest) for _ in member.input_scales] for member in plan.members]
    firsts = [
        member.network.forward(
            member.network.classifier.normalise(views[0]),
            gradients=member.gradients,
            features=plan.classifier.reads_features,
        )
        for member, views in zip(plan.members, own, strict=True)
    ]
    votes = plan.classifier.vote([first.logits for first in firsts], [first.features for first in firsts])
    probabilities = votes.cpu().numpy()
    targets = [list(choose(n, row)) for n, row in enumerate(probabilities)]
    maps = []
    for member, views, first in zip(plan.members, own, firsts, strict=True):
        # Members may have the same classes in another order.
        index = [member.network.classifier.class_index(name) for name in plan.classifier.classes]
        maps.append(_member_maps(views, member, first, [[index[target] for target in row] for row in targets]))
    fused = {
        name: [list(zip(*rows, strict=True)) for rows in zip(*(found[name] for found in maps), strict=True)]
        for name in plan.settings.methods
    }
    return BatchCams(maps=fused, targets=targets, probabilities=probabilities)


def _member_maps(
    squares: Sequence[Tensor], plan: MemberPlan, first: Forward, targets: Targets
) -> dict[str, list[list[NDArray[np.float32]]]]:
    """One network's maps by method, image and target; ``first``: its pass over the squares of scale 1."""
    settings, classifier = plan.settings, plan.network.classifier
    gated = {classifier.class_index(name) for name in classifier.negative} if settings.gate else set()
    live = [n for n, row in enumerate(targets) if set(row) - gated]
    depth = max((len(targets[n]) for n in live), default=0)
    fused = _Fusion(plan, live, depth)
    for scale, square in zip(plan.input_scales, squares, strict=True):
        if scale not in plan.scales:
            continue
        for mirrored in (False, True) if settings.flip else (False,):
            if scale == 1.0 and not mirrored:
                fused.add(first, targets, range(len(targets)), scale, mirrored)
                continue
            # As many pixels at once as at scale 1: what fits there fits here, and caches hold it.
            size = max(1, int(len(targets) / max(1.0, scale**2)))
            for chunk in (live[start : start + size] for start in range(0, len(live), size)):
                x = classifier.normalise(square[chunk])
                x = x.flip(3) if mirrored else x
                fused.add(plan.network.forward(x, gradients=plan.gradients), targets, chunk, scale, mirrored)
    side = classifier.image_size
    zero = np.zeros((side, side), np.float32)
    maps = {}
    for name in settings.methods:
        grids = fused.grids(name, side).cpu().numpy() if live else None  # (live, depth, S, S)
        maps[name] = [
            [zero if target in gated or grids is None else grids[fused.place[n], k] for k, target in enumerate(row)]
            for n, row in enumerate(targets)
        ]
    return maps


class _Fusion:
    """The sums of views' maps, kept apart by scale and size until all are in."""

    def __init__(self, plan: MemberPlan, live: Sequence[int], depth: int) -> None:
        self.plan, self.depth = plan, depth
        self.place = {n: place for place, n in enumerate(live)}
        self.sums: dict[tuple[str, float, int, int], Tensor] = {}

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
                for capture in of:
                    maps = self._maps(name, capture, coarsest, mirrored) / len(of)  # (live, h, w)
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
        stack = torch.stack(list(views.values())) / (2 if settings.flip else 1)  # (scales, live, depth, side, side)
        if settings.scales != "auto":
            return stack.mean(dim=0)
        return (stack * scale_weights(stack, tuple(views))[..., None, None]).sum(dim=0)

    def _maps(self, name: str, capture: Capture, coarsest: int, mirrored: bool) -> Tensor:
        settings = self.plan.settings
        maps = METHODS[name].function(replace(capture, score_channels=settings.score_channels)).clamp_min(0)
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


def to_image_size(classifier: AnyClassifier, grids: Grids, height: int, width: int, raw: bool) -> Cam:
    """Fused maps in the layout of the networks' inputs -> float32 (height, width) over the image.

    Each is scaled so that the smallest value is 0 and the largest 1, unless ``raw``; a constant map, which says
    nothing of place, becomes all zero. Of several members it is the mean, weighted by their shares.
    """
    total = np.zeros((height, width), np.float32)
    for member, share, grid in zip(classifier.members, classifier.shares, grids, strict=True):
        total += np.float32(share) * _over_image(member, grid, height, width, raw)
    return total if raw else np.minimum(total, 1.0, out=total)  # rounded, shares may sum up to a little more


def _over_image(classifier: Classifier, grid: NDArray[np.float32], height: int, width: int, raw: bool) -> Cam:
    side = len(grid)
    top, left, tall, wide = (round(share * side) for share in classifier.content_box(height, width))
    content = grid[top : top + max(1, tall), left : left + max(1, wide)]
    cam = cv2.resize(content, (width, height), interpolation=cv2.INTER_LINEAR)
    if raw:
        return cam
    low, high = float(cam.min()), float(cam.max())
    if high - low <= 1e-6 * high or high <= 0.0:
        return np.zeros((height, width), np.float32)
    cam -= low
    cam /= high - low
    return cam


def _over_maximum(maps: Tensor) -> Tensor:
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest, 0.0)
