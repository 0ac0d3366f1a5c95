"""Settings made ready for a classifier: layers found, scales tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from camseg.base.arrays import Image, Mask
from camseg.base.errors import InputError
from camseg.cams.capture import Network, network
from camseg.cams.hooks import alone
from camseg.cams.layers import find_guide
from camseg.cams.methods.registry import METHODS
from camseg.cams.scores import AnyNetwork, Decider
from camseg.cams.settings import CamSettings
from camseg.segment.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberPlan:
    """Settings made ready for one network: its layers found, its scales tried."""

    network: Network
    """The network toward the settings' score and layers."""
    settings: CamSettings
    """What was asked for."""
    scales: tuple[float, ...]
    """The scales whose maps are fused."""
    guide: str | None = None
    """The layer whose activations at scale 1 guide propagation, where that walks over them."""

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

    classifier: Decider
    """What decides."""
    settings: CamSettings
    """What was asked for."""
    members: tuple[MemberPlan, ...]
    """In the order of the classifier's."""

    @property
    def windows(self) -> tuple[str, ...]:
        """In which windows ``inputs`` needs an image."""
        return tuple(dict.fromkeys(member.window for member in self.classifier.members))

    @property
    def regional(self) -> bool:
        """Whether inputs come with regions: where a given mask says which pixels count, or some show no image."""
        return any(
            isinstance(member.network.classifier, Segmenter)
            and (member.network.score == "mask" or member.network.classifier.resize == "pad")
            for member in self.members
        )

    def inputs(self, views: Mapping[str, Image], masks: Sequence[Mask] | None = None) -> list[NDArray[Any]]:
        """The squares of one image, for each member and each of its input scales; ``views``: the image by window.

        Behind them, where the plan is ``regional``, stand as many regions, bool (s, s, classes): the pixels that may
        count. ``masks``: of the image for each class, (H, W); None: all that shows the image.
        """
        sizes = [
            (classifier, scale)
            for classifier, member in zip(self.classifier.members, self.members, strict=True)
            for scale in member.input_scales
        ]
        squares = [classifier.to_input(views[classifier.window], scale) for classifier, scale in sizes]
        if not self.regional:
            return squares
        if masks is None:
            masks = [np.ones(views[self.classifier.window].shape[:2], np.bool_)] * len(self.classifier.classes)
        regions = [
            np.stack([classifier.preprocessing.region_to_input(mask, scale) for mask in masks], axis=2)
            for classifier, scale in sizes
        ]
        return [*squares, *regions]


def plan(classifier: Decider, settings: CamSettings, *, guided: bool = False) -> Plan:
    """Find the layers, and see that the network takes inputs of every scale that somebody asked for.

    Those that are weighed leave out those that it does not take. Of an ensemble each member has its own layers and
    scales. ``guided``: the first member's finer stage is kept too, for propagation that walks over features. Raises
    InputError or LayerError for a layer, scale or score that cannot be had.
    """
    first, *others = (_plan_member(member, settings) for member in classifier.members)
    if guided:
        first = replace(first, guide=find_guide(first.network.classifier))
    return Plan(classifier=classifier, settings=settings, members=(first, *others))


def _plan_member(classifier: AnyNetwork, settings: CamSettings) -> MemberPlan:
    chosen = network(classifier, layers=settings.layers, score=settings.score, precision=settings.precision)
    given = settings.tried_scales
    ready = MemberPlan(network=chosen, settings=settings, scales=given)
    refused = {scale: problem for scale in ready.input_scales if (problem := _refusal(ready, scale))}
    for scale, problem in refused.items():
        if scale == 1.0 or isinstance(settings.scales, tuple):  # one that somebody asked for
            raise InputError(problem)
    return replace(ready, scales=tuple(scale for scale in given if scale not in refused))


_TAKEN: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()


def _refusal(ready: MemberPlan, scale: float) -> str | None:
    """Why the network cannot take inputs of a scale, found by a dry run; None when it can, which is remembered.

    What fails may not fail again, and networks that refuse a size mostly do so before they calculate anything.
    """
    classifier = ready.network.classifier
    side = max(1, round(scale * classifier.image_size))
    key = (side, ready.network.layers, tuple(ready.network.rivals), ready.gradients)
    with alone(classifier.model):
        taken = _TAKEN.setdefault(classifier.model, set())
        if key not in taken:
            blank = classifier.normalise(torch.zeros(1, side, side, 3, dtype=torch.uint8))
            try:
                ready.network.forward(blank, gradients=ready.gradients).toward([0])
            except (RuntimeError, AssertionError, ValueError, IndexError) as error:
                words = " ".join(str(error).split())[:200]
                if isinstance(error, torch.OutOfMemoryError) or "memory" in words:
                    raise  # which says something of the device at this moment, not of the network
                return f"{classifier.arch} cannot take inputs of {side} pixels ({words}); choose other --scales"
            taken.add(key)
        return None
