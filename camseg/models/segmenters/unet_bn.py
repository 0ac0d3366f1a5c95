"""U-Net with batch norm."""

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from camseg.models.segmenters.network import EncoderDecoder

WIDTHS: Final = (32, 64, 128, 256, 512)
"""Channels of the stages on the way down, the bridge's last."""


class UNetBN(EncoderDecoder):
    """U-Net with batch norm: images (N, inputs, H, W) -> logits (N, outputs, H, W).

    Two times 3x3 convolution without bias, batch norm and ReLU at each stage, 32 to 512 channels; 2x2 transposed
    convolutions up, whose result stands before the skip. 7,763,041 parameters with three inputs and one output.

    Ronneberger, Fischer and Brox, U-Net, MICCAI 2015, in the form of Buda, Saha and Mazurowski, Association of Genomic
    Subtypes of Lower-Grade Gliomas, Computers in Biology and Medicine 109, 2019.
    """

    def __init__(self, *, inputs: int = 3, outputs: int = 1) -> None:
        super().__init__()
        for level, (channels, width) in enumerate(pairwise((inputs, *WIDTHS[:-1])), 1):
            self.add_module(f"enc{level}", _normalised(channels, width))
        self.bridge = _normalised(WIDTHS[-2], WIDTHS[-1])
        for level, (below, width) in enumerate(pairwise(reversed(WIDTHS)), 6):
            self.add_module(f"dec{level}", _UpNormalised(below, width))
        self.head = nn.Conv2d(WIDTHS[0], outputs, 1)


def _normalised(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for start in (channels, width):
        layers += [nn.Conv2d(start, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class _UpNormalised(nn.Module):
    def __init__(self, below: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(below, width, 2, stride=2)
        self.block = _normalised(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.block(torch.cat([self.up(x), skip], dim=1))
        return out
