"""Decoders of segmentation_models_pytorch on timm's encoders, as segmentation networks of here."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from camseg.base.errors import InputError, first_line
from camseg.base.extras import require
from camseg.models.hub import hub
from camseg.models.names import ModelArgs, canonical_name
from camseg.models.segmenters.encoder import EncoderSegmenter, unavailable


class LibrarySegmenter(EncoderSegmenter):
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
        super().__init__(decoder, encoder, pretrained=pretrained)
        self.network = _built(decoder, encoder, inputs, outputs, arguments, pretrained)
        self.deepest, self.decoded = nn.Identity(), nn.Identity()
        # The pyramid of this one halves the deepest map, at stride 16, three times more.
        self.divisor = 128 if decoder == "pan" else max(32, int(self.network.encoder.output_stride))

    @property
    def backbone(self) -> nn.Module:
        """timm's network, in the library's wrapping."""
        wrapped: nn.Module = self.network.encoder.model
        return wrapped

    def segment(self, images: Tensor) -> Tensor:
        """Images (N, inputs, H, W) with sides that are multiples of ``divisor`` -> logits (N, outputs, H, W)."""
        *finer, last = self.network.encoder(images)
        decoded = self.decoded(self.network.decoder([*finer, self.deepest(last)]))
        logits: Tensor = self.network.segmentation_head(decoded)
        return logits


def _built(
    decoder: str, encoder: str, inputs: int, outputs: int, arguments: Mapping[str, Any], pretrained: bool
) -> Any:
    smp = require("segmentation_models_pytorch", "seg", f"{decoder}+{encoder}")
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
            raise unavailable(encoder, first_line(error), reachable) from None
        given = f" with {dict(arguments)}" if arguments else ""
        raise InputError(f"{decoder}+{encoder} cannot be built{given}: {first_line(error)}") from error
