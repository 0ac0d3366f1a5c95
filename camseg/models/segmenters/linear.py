"""One linear layer on the last maps or tokens of an encoder: logistic regression, place by place."""

from torch import Tensor, nn
from torch.nn import functional

from camseg.base.errors import InputError, first_line
from camseg.models.hub import hub
from camseg.models.library import timm
from camseg.models.names import ModelArgs
from camseg.models.segmenters.encoder import EncoderSegmenter, unavailable


class LinearProbe(EncoderSegmenter):
    """Images (N, inputs, H, W) -> logits (N, outputs, H, W): a 1x1 convolution of the encoder's last maps, standardised
    channel by channel, and enlarged to the images' size.

    Meant for an encoder that stays frozen and sees what is alike by itself, such as DINOv2: then what the pixels teach
    is a logistic regression, which is robust to masks that are too small. ``arguments`` go to timm; transformers take
    images of any size. Raises as ``EncoderSegmenter``, and InputError for networks that give no maps.

    Alain, Bengio: Understanding intermediate layers using linear classifier probes, arXiv 1610.01644.
    """

    bottleneck = "maps"
    last_decoder = "standardised"
    classifying = "scores"

    def __init__(
        self, decoder: str, encoder: str, *, inputs: int, outputs: int, arguments: ModelArgs, pretrained: bool
    ) -> None:
        super().__init__(decoder, encoder, pretrained=pretrained)
        self.encoder = _built(encoder, inputs, arguments, pretrained)
        if not hasattr(self.encoder, "forward_intermediates"):
            raise InputError(f"{encoder} gives no maps that a linear layer could read; choose another encoder")
        facts = self.encoder.feature_info[-1]  # type: ignore[index]  # timm states it of every network
        self.divisor = int(facts["reduction"])  # type: ignore[index]
        self.maps = nn.Identity()
        # Tokens have a few channels that are far louder than all others.
        self.standardised = nn.BatchNorm2d(int(facts["num_chs"]), affine=False)  # type: ignore[index]
        self.scores = nn.Conv2d(self.standardised.num_features, outputs, 1)

    @property
    def backbone(self) -> nn.Module:
        """timm's network, without a classifier."""
        return self.encoder

    def segment(self, images: Tensor) -> Tensor:
        """Images (N, inputs, H, W) with sides that are multiples of ``divisor`` -> logits (N, outputs, H, W)."""
        (maps,) = self.encoder.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)  # type: ignore[operator]
        logits = self.scores(self.standardised(self.maps(maps)))  # (N, outputs, h, w)
        return functional.interpolate(logits, images.shape[2:], mode="bilinear")


def _built(encoder: str, inputs: int, arguments: ModelArgs, pretrained: bool) -> nn.Module:
    reachable = True
    given = {"num_classes": 0, "in_chans": inputs, "pretrained": pretrained, **arguments}
    try:
        with hub() as reachable:
            try:
                return timm.create_model(encoder, dynamic_img_size=True, **given)
            except TypeError:  # no transformer of patches
                return timm.create_model(encoder, **given)
    except Exception as error:  # hubs and constructors raise whatever their libraries do
        if pretrained and not isinstance(error, (TypeError, ValueError)):
            raise unavailable(encoder, first_line(error), reachable) from None
        said = f" with {dict(arguments)}" if arguments else ""
        raise InputError(f"linear+{encoder} cannot be built{said}: {first_line(error)}") from error
