"""U-Net without batch norm, as the papers on MultiResUNet and DC-UNet compare with."""

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from camseg.models.segmenters.network import EncoderDecoder

WIDTHS: Final = (32, 64, 128, 256, 512)
"""Channels of the stages on the way down, the bridge's last."""


class UNet(EncoderDecoder):
    """U-Net: images (N, inputs, H, W) -> logits (N, outputs, H, W).

    Two 3x3 convolutions with ReLU at each stage, 32 to 512 channels, zero padding; 2x2 transposed convolutions up,
    whose result stands before the skip in the concatenation. No batch norm and no dropout. 7,760,097 parameters with
    three inputs and one output; 7,759,521, as published, with one input.

    Ronneberger, Fischer and Brox, U-Net, MICCAI 2015 (64 to 1024 channels, no padding); in this size and with padding
    the baseline of Ibtehaz and Rahman, MultiResUNet, Neural Networks 121, 2020.
    """

    def __init__(self, *, inputs: int = 3, outputs: int = 1) -> None:
        super().__init__()
        for level, (channels, width) in enumerate(pairwise((inputs, *WIDTHS[:-1])), 1):
            self.add_module(f"enc{level}", _Stage(channels, width))
        self.bridge = _Stage(WIDTHS[-2], WIDTHS[-1])
        for level, (below, width) in enumerate(pairwise(reversed(WIDTHS)), 6):
            self.add_module(f"dec{level}", _UpStage(below, width))
        self.head = nn.Conv2d(WIDTHS[0], outputs, 1)


class _Stage(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))))


class _UpStage(nn.Module):
    def __init__(self, below: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(below, width, 2, stride=2)
        self.block = _Stage(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.block(torch.cat([self.up(x), skip], dim=1))
        return out
