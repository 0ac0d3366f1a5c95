"""Decoders of segmentation_models_pytorch on timm's encoders, as segmentation networks of here."""

import importlib
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn

from camseg.base.errors import CheckpointError, InputError, WeightsUnavailableError, first_line
from camseg.models.building import check_architecture
from camseg.models.hub import hub
from camseg.models.library import get_pretrained_cfg, timm
from camseg.models.names import ModelArgs, canonical_name
from camseg.models.segmenters.network import SegmentationNetwork
from camseg.models.weights import Weights

IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of inputs where an encoder states none."""


class LibrarySegmenter(SegmentationNetwork):
    """A network of segmentation_models_pytorch: images (N, inputs, H, W) -> logits (N, outputs, H, W).

    ``bottleneck`` and ``last_decoder`` pass on the encoder's deepest map and the decoder's map: they have no parameters
    and are there to be looked at. ``encoder`` is timm's name; ``arguments`` go to the decoder and the encoder as the
    library takes them. Raises InputError for what it does not take, WeightsUnavailableError for pretrained weights
    that cannot be had.
    """

    bottleneck = "deepest"
    last_decoder = "decoded"
    classifying = "network.segmentation_head"

    def __init__(
        self, decoder: str, encoder: str, *, inputs: int, outputs: int, arguments: ModelArgs, pretrained: bool
    ) -> None:
        super().__init__()
        check_architecture(encoder)
        if not timm.is_model(encoder):
            raise InputError(f"expected an encoder of timm, got {encoder}; such as {decoder}+mobilenetv2_100")
        if pretrained and not timm.is_model_pretrained(encoder):
            raise WeightsUnavailableError(f"there are no ImageNet weights of {encoder}; train with --weights none")
        self.network = _built(decoder, encoder, inputs, outputs, arguments, pretrained)
        self.deepest, self.decoded = nn.Identity(), nn.Identity()
        # The pyramid of this one halves the deepest map, at stride 16, three times more.
        self.divisor = 128 if decoder == "pan" else max(32, int(self.network.encoder.output_stride))
        config = get_pretrained_cfg(encoder)
        self.mean, self.std = (tuple(config.mean), tuple(config.std)) if config else IMAGENET

    def segment(self, images: Tensor) -> Tensor:
        """Images (N, inputs, H, W) with sides that are multiples of ``divisor`` -> logits (N, outputs, H, W)."""
        *finer, last = self.network.encoder(images)
        decoded = self.decoded(self.network.decoder([*finer, self.deepest(last)]))
        logits: Tensor = self.network.segmentation_head(decoded)
        return logits

    def load_encoder(self, weights: Weights, source: str) -> None:
        """Copy a classifier's weights into the encoder in place; its last layers, which no decoder reads, are left.

        Raises CheckpointError when the encoder needs what the file lacks, or has it in another shape.
        """
        own = self.network.encoder.model.state_dict()
        # timm takes networks apart into their stages by changing the first dots of names to underscores.
        given = {name.replace(".", "_"): value for name, value in weights.tensors.items()}
        fitting = {name: given.get(name.replace(".", "_")) for name in own}
        wrong = [
            name
            for name, value in fitting.items()
            if not name.endswith("num_batches_tracked") and (value is None or value.shape != own[name].shape)
        ]
        if wrong:
            raise CheckpointError(
                f"{source} does not fit the encoder: {len(wrong)} tensors are missing or of another shape (first "
                f"{wrong[0]}); choose the encoder and the --model-arg that the file was trained with"
            )
        self.network.encoder.model.load_state_dict(
            {name: own[name] if value is None else value for name, value in fitting.items()}
        )


def _built(
    decoder: str, encoder: str, inputs: int, outputs: int, arguments: Mapping[str, Any], pretrained: bool
) -> Any:
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{decoder}+{encoder} needs segmentation_models_pytorch ({first_line(error)}); pip install camseg[seg]"
        ) from None
    reachable = True
    try:
        with hub() as reachable:
            return smp.create_model(
                decoder,
                encoder_name=f"tu-{canonical_name(encoder)}",
                encoder_weights=True if pretrained else None,
                in_channels=inputs,
                classes=outputs,
                **arguments,
            )
    except Exception as error:  # hubs and constructors raise whatever their libraries do
        if pretrained and not isinstance(error, (TypeError, ValueError)):
            reason = first_line(error) if reachable else "the hub is out of reach, and its cache lacks them"
            raise WeightsUnavailableError(
                f"the ImageNet weights of {encoder} could not be had ({reason}); connect to the internet once, give a "
                "local file with --weights FILE, or train from scratch with --weights none"
            ) from None
        given = f" with {dict(arguments)}" if arguments else ""
        raise InputError(f"{decoder}+{encoder} cannot be built{given}: {first_line(error)}") from error
