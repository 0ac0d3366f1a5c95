"""What ``--model`` can name, with its facts: architectures of classifiers, and segmentation networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from camseg.base.extras import MissingLibraryError
from camseg.models.building import create_model, default_image_size
from camseg.models.names import ARCHITECTURES, DEFAULT_ARCH, canonical_name, split_name
from camseg.models.segmenters.building import build_segmenter, default_segmenter_size
from camseg.models.segmenters.registry import DECODERS, SEGMENTERS, canonical_segmenter, names_segmenter


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A network that can be named, and what a user wants to know before choosing it."""

    name: str
    """As runs store it."""
    kind: Literal["classifier", "segmentation"]
    """Whether ``train-cls`` or ``train-seg`` takes it."""
    typed: tuple[str, ...] = ()
    """What people call it, which is taken too."""
    parameters: int | None
    """Those that learn, with three inputs and one output; None where the library that builds it is absent."""
    image_size: int
    """Side of the inputs that it is trained with unless told otherwise, pixels."""
    paper: str
    """Where it was published; empty for networks that only timm knows of."""


def list_models() -> list[ModelFacts]:
    """The networks of the papers behind camseg, classifiers first; each decoder stands there with one encoder.

    Every other name of timm is a classifier too, and an encoder for the decoders.
    """
    segmenters = [*SEGMENTERS, *(f"{decoder}+{DEFAULT_ARCH}" for decoder in DECODERS)]
    return [*map(_classifier, ARCHITECTURES), *map(_segmenter, segmenters)]


def find_models(names: Sequence[str]) -> list[ModelFacts]:
    """The facts of networks that are named as people type them, in that order. Raises InputError for unknown names."""
    return [_segmenter(name) if names_segmenter(name) else _classifier(name) for name in names]


def _classifier(name: str) -> ModelFacts:
    known = ARCHITECTURES.get(split_name(name)[0])
    with torch.device("meta"):  # only shapes: no memory is filled, no random number drawn
        network = create_model(name, 1)
    return ModelFacts(
        name=canonical_name(name),
        kind="classifier",
        typed=known.typed if known else (),
        parameters=_learning(network),
        image_size=default_image_size(name),
        paper=known.paper if known else "",
    )


def _segmenter(name: str) -> ModelFacts:
    canonical = canonical_segmenter(name)
    decoder, plus, _ = canonical.partition("+")
    parameters = None
    try:
        with torch.device("meta"):
            parameters = _learning(build_segmenter(canonical))
    except MissingLibraryError:
        pass
    return ModelFacts(
        name=canonical,
        kind="segmentation",
        parameters=parameters,
        image_size=default_segmenter_size(canonical),
        paper=DECODERS[decoder] if plus else SEGMENTERS[canonical].paper,
    )


def _learning(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
