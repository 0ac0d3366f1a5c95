"""The segmentation networks that are built here, by name, and the decoders of the library; nothing heavy is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from camseg.base.errors import InputError
from camseg.base.registry import Method
from camseg.models.names import split_name


@dataclass(frozen=True, kw_only=True)
class SegmenterEntry(Method):
    """A segmentation network that is built here. ``function`` is its class, called with ``inputs``, ``outputs`` and
    the arguments."""

    parameters: int
    """Trainable parameters with three inputs and one output, and no arguments."""
    statistics: int = 0
    """Running statistics of batch norm beside them: the two together are what Keras counts."""
    image_size: int = 128
    """Side of the inputs that the papers behind camseg trained it with, pixels; it takes any."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Arguments that it takes, and what they mean."""


SEGMENTERS: Final[dict[str, SegmenterEntry]] = {
    "unet": SegmenterEntry(
        function="models.segmenters.unet:UNet",
        paper="Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI "
        "2015; 32 to 512 channels, as in the baseline of Ibtehaz and Rahman",
        parameters=7_760_097,
    ),
    "multiresunet": SegmenterEntry(
        function="models.segmenters.multiresunet:MultiResUNet",
        paper="Ibtehaz, Rahman: MultiResUNet: Rethinking the U-Net Architecture for Multimodal Biomedical Image "
        "Segmentation, Neural Networks 2020",
        parameters=7_238_228,
        statistics=24_522,
    ),
    "dcunet": SegmenterEntry(
        function="models.segmenters.dcunet:DCUNet",
        paper="Lou, Guan, Loew: DC-UNet: Rethinking the U-Net Architecture with Dual Channel Efficient CNN for Medical "
        "Image Segmentation, SPIE Medical Imaging 2021",
        parameters=10_040_524,
        statistics=29_404,
    ),
    "attention-unet": SegmenterEntry(
        function="models.segmenters.attention_unet:AttentionUNet",
        paper="Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018",
        parameters=34_878_573,
        statistics=15_624,
    ),
    "unet-bn": SegmenterEntry(
        function="models.segmenters.unet_bn:UNetBN",
        paper="Ronneberger, Fischer, Brox: U-Net, MICCAI 2015; with batch norm, as Buda, Saha, Mazurowski have it, "
        "Computers in Biology and Medicine 2019",
        parameters=7_763_041,
        statistics=5_888,
    ),
    "med-ic-seg": SegmenterEntry(
        function="models.segmenters.med_ic_seg:MedICSeg",
        paper="Islam et al.: Med-IC: Fusing a Single Layer Involution with Convolutions for Enhanced Medical Image "
        "Classification and Segmentation, arXiv 2409.18506",
        parameters=6_988_152,
        statistics=4,
        arguments={"involutions": "1, 2 or 3 involution layers", "drop_rate": "what dropout drops, 0.1"},
    ),
    "unet-extra": SegmenterEntry(
        function="models.segmenters.med_ic_seg:UNetExtra",
        paper="Islam et al.: Med-IC (the U-Net that it is compared with, three convolutions of 512 at the bottom), "
        "arXiv 2409.18506",
        parameters=11_707_729,
        arguments={"drop_rate": "what dropout drops, 0.1"},
    ),
}
"""By name, in the order of the lists."""

LINEAR: Final = "linear"
"""The decoder that is none, built here."""
DECODERS: Final[dict[str, str]] = {
    LINEAR: "Alain, Bengio: Understanding intermediate layers using linear classifier probes, arXiv 1610.01644",
    "unet": "Ronneberger, Fischer, Brox: U-Net, MICCAI 2015",
    "unetplusplus": "Zhou et al.: UNet++: A Nested U-Net Architecture for Medical Image Segmentation, DLMIA 2018",
    "manet": "Fan et al.: MA-Net: A Multi-Scale Attention Network for Liver and Tumor Segmentation, IEEE Access 2020",
    "linknet": "Chaurasia, Culurciello: LinkNet, VCIP 2017",
    "fpn": "Kirillov, Girshick, He, Dollar: Panoptic Feature Pyramid Networks, CVPR 2019",
    "pspnet": "Zhao et al.: Pyramid Scene Parsing Network, CVPR 2017",
    "pan": "Li et al.: Pyramid Attention Network for Semantic Segmentation, BMVC 2018",
    "deeplabv3": "Chen et al.: Rethinking Atrous Convolution for Semantic Image Segmentation, arXiv 1706.05587",
    "deeplabv3plus": "Chen et al.: Encoder-Decoder with Atrous Separable Convolution, ECCV 2018",
    "upernet": "Xiao et al.: Unified Perceptual Parsing for Scene Understanding, ECCV 2018",
    "segformer": "Xie et al.: SegFormer, NeurIPS 2021",
}
"""What stands before ``+`` in ``DECODER+ENCODER``: ``linear`` for one linear layer on the encoder's last maps or
tokens, else by segmentation_models_pytorch's names; an encoder is any network of timm that gives maps at strides 2 or 4
to 32, and for ``linear`` any transformer."""


def names_segmenter(name: str) -> bool:
    """Whether a name is that of a segmentation network, or begins as one; else it can only be a classifier's."""
    own, decoder, _, _ = _parts(name)
    return own in SEGMENTERS or decoder in DECODERS


def canonical_segmenter(name: str) -> str:
    """A segmentation network's name as runs store it: ``UNet+MobileNetV2`` -> ``unet+mobilenetv2_100``.

    Raises InputError, with the choices, for a name that is none.
    """
    own, decoder, plus, encoder = _parts(name)
    if own in SEGMENTERS:
        return own
    if not plus or decoder not in DECODERS:
        known = f"{', '.join(SEGMENTERS)}, or DECODER+ENCODER with a decoder of {', '.join(DECODERS)}"
        raise InputError(f"unknown segmentation network {name!r}; choose among {known} and an encoder of timm")
    backbone, heads = split_name(encoder.strip().removeprefix("tu-"))
    if heads:
        raise InputError(f"expected one decoder and one encoder, such as {decoder}+{backbone}; got {name!r}")
    return f"{decoder}+{backbone}"


def _parts(name: str) -> tuple[str, str, str, str]:
    """A name as the networks of here are called, then what stands before ``+``, it, and what stands behind it."""
    decoder, plus, encoder = name.strip().partition("+")
    own = "" if plus else decoder.lower().replace("_", "-")
    return own, decoder.strip().lower().replace("-", "").replace("_", ""), plus, encoder
