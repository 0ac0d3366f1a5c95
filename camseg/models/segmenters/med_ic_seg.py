"""Med-IC (Seg): involution layers in front of a deep U-Net, and that U-Net alone, enlarged."""

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from camseg.models.backbones.involution import Involution
from camseg.models.segmenters.network import SegmentationNetwork

WIDTHS: Final = (16, 32, 64, 128, 256)
"""Channels of the five stages that pooling follows."""
DEEPEST: Final = 512
"""Channels of the sixth block."""


class _SixBlocks(SegmentationNetwork):
    """Five stages of three 3x3 convolutions with ReLU, each followed by 2x2 max-pooling; ``deepest`` convolutions of
    512 channels; five stages back up: a 2x2 transposed convolution, the skip behind it, three 3x3 convolutions with
    ReLU. Dropout ends every stage."""

    divisor = 32
    bottleneck = "bridge"
    last_decoder = "dec5"
    classifying = "head"

    def __init__(self, inputs: int, outputs: int, *, deepest: int, drop_rate: float) -> None:
        super().__init__()
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"expected a drop_rate from 0 to below 1, got {drop_rate}")
        for level, (channels, width) in enumerate(pairwise((inputs, *WIDTHS)), 1):
            self.add_module(f"enc{level}", _block(channels, width, 3, drop_rate))
        self.bridge = _block(WIDTHS[-1], DEEPEST, deepest, drop_rate)
        for level, (below, width) in enumerate(pairwise((DEEPEST, *reversed(WIDTHS))), 1):
            self.add_module(f"dec{level}", _UpBlock(below, width, drop_rate))
        self.head = nn.Conv2d(WIDTHS[0], outputs, 1)

    def before(self, images: Tensor) -> Tensor:
        """What the first stage takes, at the images' size."""
        return images

    def segment(self, images: Tensor) -> Tensor:
        x, skips = self.before(images), []
        for level in range(1, 6):
            x = self.get_submodule(f"enc{level}")(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.get_submodule("bridge")(x)
        for level, skip in zip(range(1, 6), reversed(skips), strict=True):
            x = self.get_submodule(f"dec{level}")(x, skip)
        logits: Tensor = self.head(x)
        return logits


class MedICSeg(_SixBlocks):
    """Med-IC (Seg): images (N, inputs, H, W) -> logits (N, outputs, H, W).

    ``involutions`` (1, 2 or 3) involution layers of 3x3 kernels with ReLU, then an encoder of 16, 32, 64, 128 and 256
    channels with three 3x3 convolutions each, one of 512 in the sixth block, and a decoder of 256 to 16; dropout of
    10 % at the end of every block.

    The paper gives 6.98 million parameters. Of the readings of its description this one fits: three convolutions in the
    decoder's blocks too, 2x2 transposed convolutions with bias to the width of their block, concatenated skips, no
    batch norm outside the involution, which has two hidden units as in the classifier. It has 6,988,152 trainable
    parameters with one involution, and 6,988,156 with running statistics; each further involution has 39, or 43. Two
    convolutions in the decoder's blocks would need 3x3 transposed ones, with 7.07 million; batch norm in the encoder
    would end above 6.99 million. The paper does not settle whether the involution has one hidden unit or two, whether
    ReLU follows it, where in a block dropout stands, and what of the involution's output the first skip holds.

    Islam et al., Med-IC: Fusing a Single Layer Involution with Convolutions for Enhanced Medical Image Classification
    and Segmentation, arXiv 2409.18506.
    """

    def __init__(self, *, inputs: int = 3, outputs: int = 1, involutions: int = 1, drop_rate: float = 0.1) -> None:
        if involutions not in (1, 2, 3):
            raise ValueError(f"expected 1, 2 or 3 involutions, got {involutions}")
        super().__init__(inputs, outputs, deepest=1, drop_rate=drop_rate)
        self.involutions = nn.ModuleList(Involution(inputs, 3, reduction=2) for _ in range(involutions))

    def before(self, images: Tensor) -> Tensor:
        """The images behind their involutions, as many channels and the same size."""
        for involution in self.involutions:
            images = involution(images).relu()
        return images


class UNetExtra(_SixBlocks):
    """The U-Net of Med-IC (Seg) without involution and with three convolutions of 512 in the sixth block: images (N,
    inputs, H, W) -> logits (N, outputs, H, W).

    11,707,729 parameters with three inputs and one output; the paper gives 11.7 million.

    Islam et al., Med-IC, arXiv 2409.18506, which compares with it.
    """

    def __init__(self, *, inputs: int = 3, outputs: int = 1, drop_rate: float = 0.1) -> None:
        super().__init__(inputs, outputs, deepest=3, drop_rate=drop_rate)


def _block(channels: int, width: int, convolutions: int, drop_rate: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for start in (channels, *[width] * (convolutions - 1)):
        layers += [nn.Conv2d(start, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(drop_rate))


class _UpBlock(nn.Module):
    def __init__(self, below: int, width: int, drop_rate: float) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(below, width, 2, stride=2)
        self.block = _block(2 * width, width, 3, drop_rate)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.block(torch.cat([self.up(x), skip], dim=1))
        return out
