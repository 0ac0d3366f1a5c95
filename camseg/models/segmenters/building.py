"""Names -> segmentation networks, with weights of their encoders from a file, from timm, or none."""

from pathlib import Path
from typing import TYPE_CHECKING

from camseg.base.errors import InputError, WeightsUnavailableError, first_line
from camseg.base.registry import choose
from camseg.models.names import ModelArgs, canonical_name
from camseg.models.segmenters.network import SegmentationNetwork
from camseg.models.segmenters.registry import LINEAR, SEGMENTERS, canonical_segmenter
from camseg.models.weights import read_weights

if TYPE_CHECKING:
    from camseg.models.segmenters.library import LibrarySegmenter
    from camseg.models.segmenters.linear import LinearProbe


def build_segmenter(
    name: str,
    *,
    inputs: int = 3,
    outputs: int = 1,
    arguments: ModelArgs | None = None,
    weights: str | Path | None = None,
) -> SegmentationNetwork:
    """Build a segmentation network: images (N, inputs, H, W) of any size -> logits (N, outputs, H, W).

    ``name``: one of ``registry.SEGMENTERS``, or ``DECODER+ENCODER``, such as ``unet+mobilenetv2_100``; ``arguments``:
    its further ones. ``weights``: None or ``"none"`` for new ones, ``"imagenet"`` for those that timm has of the
    encoder, or a file of a classifier's weights, which go into the encoder; what the file says of its architecture's
    arguments, mean and deviation holds. The network says how to build it again (``arguments``) and what its inputs
    are normalised by (``mean``, ``std``).

    Raises InputError for an unknown name or argument, or weights for a network that has no encoder of timm;
    CheckpointError for a file that does not fit, WeightsUnavailableError for weights that cannot be had.
    """
    canonical, given = canonical_segmenter(name), dict(arguments or {})
    fresh = weights in (None, "none")
    if canonical in SEGMENTERS:
        if not fresh:
            raise WeightsUnavailableError(
                f"there are no weights of an encoder of {canonical}; train from scratch with --weights none, or take a "
                "network with an encoder of timm, such as unet+mobilenetv2_100"
            )
        network: SegmentationNetwork = _own(canonical, inputs, outputs, given)
        network.arguments = given
        return network
    file = None if fresh or weights == "imagenet" else read_weights(str(weights))
    decoder, _, encoder = canonical.partition("+")
    if file and file.arch and canonical_name(file.arch) != encoder:
        raise InputError(f"{weights} holds weights of {file.arch}, not of {encoder}; choose {decoder}+{file.arch}")
    given = {**(file.model_args if file else {}), **given}
    found = _on_encoder(decoder)(
        decoder, encoder, inputs=inputs, outputs=outputs, arguments=given, pretrained=weights == "imagenet"
    )
    found.arguments = given
    if file:
        found.load_encoder(file, str(weights))
        found.mean, found.std = file.mean or found.mean, file.std or found.std
    return found


def _on_encoder(decoder: str) -> "type[LibrarySegmenter] | type[LinearProbe]":
    if decoder == LINEAR:
        from camseg.models.segmenters.linear import LinearProbe

        return LinearProbe
    from camseg.models.segmenters.library import LibrarySegmenter

    return LibrarySegmenter


def _own(name: str, inputs: int, outputs: int, arguments: ModelArgs) -> SegmentationNetwork:
    entry = choose("segmentation network", name, SEGMENTERS)
    try:
        network: SegmentationNetwork = entry.load()(inputs=inputs, outputs=outputs, **arguments)
    except (TypeError, ValueError) as error:
        known = "; ".join(f"{word}: {meaning}" for word, meaning in entry.arguments.items()) or "none"
        raise InputError(
            f"{name} cannot be built with {dict(arguments)}: {first_line(error)} (arguments: {known})"
        ) from error
    return network


def default_segmenter_size(name: str) -> int:
    """The side of the inputs that a network of the papers was trained with there; else 224 pixels."""
    entry = SEGMENTERS.get(canonical_segmenter(name))
    return entry.image_size if entry else 224
