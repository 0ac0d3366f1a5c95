"""The names of architectures: those of the papers, what people type for them, and plug-in heads joined with ``+``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from camseg.base.errors import InputError

ModelArgs: TypeAlias = Mapping[str, str | int | float | bool | None]
"""Further keyword arguments of the architecture's constructor, JSON values only."""
DEFAULT_ARCH: Final = "mobilenetv2_100"
"""Small, quick on a CPU, and what the results table was measured with."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture that the papers behind camseg use."""

    typed: tuple[str, ...]
    """What people call it, in any case and with or without hyphens, underscores and spaces."""
    paper: str
    """Where it was published."""


ARCHITECTURES: Final[dict[str, Architecture]] = {
    "resnet50": Architecture(
        typed=("ResNet50",),
        paper="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016",
    ),
    "resnetv2_50": Architecture(
        typed=("ResNet50V2", "ResNetV2-50"),
        paper="He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, ECCV 2016",
    ),
    "densenet121": Architecture(
        typed=("DenseNet121",),
        paper="Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, CVPR 2017",
    ),
    "densenet201": Architecture(
        typed=("DenseNet201",),
        paper="Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, CVPR 2017",
    ),
    "mobilenetv2_100": Architecture(
        typed=("MobileNetV2",),
        paper="Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018",
    ),
    "efficientnet_b0": Architecture(
        typed=("EfficientNetB0",),
        paper="Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019",
    ),
    "efficientnet_b5": Architecture(
        typed=("EfficientNetB5",),
        paper="Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019",
    ),
    "legacy_xception": Architecture(
        typed=("Xception",),
        paper="Chollet: Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017",
    ),
    "inception_v3": Architecture(
        typed=("InceptionV3",),
        paper="Szegedy et al.: Rethinking the Inception Architecture for Computer Vision, CVPR 2016",
    ),
    "vgg16": Architecture(
        typed=("VGG16",),
        paper="Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015",
    ),
    "vgg19": Architecture(
        typed=("VGG19",),
        paper="Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015",
    ),
    "convnext_tiny": Architecture(
        typed=("ConvNeXtTiny", "ConvNeXt-T"),
        paper="Liu et al.: A ConvNet for the 2020s, CVPR 2022",
    ),
    "convnext_base": Architecture(
        typed=("ConvNeXtBase", "ConvNeXt-B"),
        paper="Liu et al.: A ConvNet for the 2020s, CVPR 2022",
    ),
    "vit_base_patch16_224": Architecture(
        typed=("ViT", "ViT-Base", "ViT-B/16", "ViT-B16"),
        paper="Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021",
    ),
    "vit_small_patch16_224": Architecture(
        typed=("ViT-Small", "ViT-S/16", "ViT-S16"),
        paper="Touvron et al.: Training Data-Efficient Image Transformers (its size S), ICML 2021",
    ),
    "vit_minimal": Architecture(
        typed=("ViT-Minimal",),
        paper="the smallest of the kind of Dosovitskiy et al., for comparison with the heads",
    ),
    "nasnet_mobile": Architecture(
        typed=("NASNetMobile", "NASNet-A Mobile"),
        paper="Zoph, Vasudevan, Shlens, Le: Learning Transferable Architectures for Scalable Image Recognition, "
        "CVPR 2018 (NASNet-A, 4 @ 1056)",
    ),
    "med_ic": Architecture(
        typed=("Med-IC", "MedIC1"),
        paper="Islam et al.: Med-IC: Fusing a Single Layer Involution with Convolutions, arXiv 2409.18506",
    ),
    "med_ic_2": Architecture(typed=("MedIC2", "Hybrid-2"), paper="Islam et al.: Med-IC, with two involution layers"),
    "med_ic_3": Architecture(typed=("MedIC3", "Hybrid-3"), paper="Islam et al.: Med-IC, with three involution layers"),
    "med_ic_inn": Architecture(
        typed=("MedICINN", "INN"), paper="Islam et al.: Med-IC, involution without convolutions"
    ),
    "med_ic_cnn": Architecture(
        typed=("MedICCNN", "CNN-3"), paper="Islam et al.: Med-IC, three convolutions, no involution"
    ),
}
"""By canonical name: timm's, or ours. Every other name of timm can be used too."""


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "-_ /")


_CANONICAL = {_key(name): canonical for canonical, known in ARCHITECTURES.items() for name in (canonical, *known.typed)}


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """A model's name -> the canonical name of its backbone and its heads: ``ResNet50+MAB`` -> ``resnet50``, ``mab``.

    Raises InputError when a part is missing or a head is joined twice.
    """
    backbone, *heads = parts = [part.strip() for part in name.split("+")]
    if not all(parts):
        raise InputError(f"expected BACKBONE or BACKBONE+HEAD+..., such as mobilenetv2_100+mab; got {name!r}")
    joined = tuple(head.lower() for head in heads)
    if len(set(joined)) < len(joined):
        raise InputError(f"expected each head once, got {name}")
    return _CANONICAL.get(_key(backbone), backbone.lower()), joined


def canonical_name(name: str) -> str:
    """A model's name as classifiers store it: ``MobileNetV2+MAB+SBR`` -> ``mobilenetv2_100+mab+sbr``."""
    backbone, heads = split_name(name)
    return "+".join((backbone, *heads))
