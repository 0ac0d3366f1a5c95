"""Attention U-Net: gates decide which places of a skip pass."""

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from camseg.models.segmenters.network import EncoderDecoder

WIDTHS: Final = (64, 128, 256, 512, 1024)
"""Channels of the stages on the way down, the bridge's last."""


class AttentionUNet(EncoderDecoder):
    """Attention U-Net: images (N, inputs, H, W) -> logits (N, outputs, H, W).

    Two times 3x3 convolution, batch norm and ReLU at each stage, 64 to 1024 channels; on the way up the nearest
    neighbour, 3x3 convolution, batch norm and ReLU; the gated skip stands before it in the concatenation. 34,878,573
    parameters with three inputs and one output. This is the form that is widely used; the paper's own gates take the
    coarser map before it is enlarged, stand on three levels, and train with deep supervision.

    Oktay et al., Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018.
    """

    def __init__(self, *, inputs: int = 3, outputs: int = 1) -> None:
        super().__init__()
        for level, (channels, width) in enumerate(pairwise((inputs, *WIDTHS[:-1])), 1):
            self.add_module(f"enc{level}", _convolved(channels, width, 2))
        self.bridge = _convolved(WIDTHS[-2], WIDTHS[-1], 2)
        for level, (below, width) in enumerate(pairwise(reversed(WIDTHS)), 6):
            self.add_module(f"dec{level}", _GatedStage(below, width))
        self.head = nn.Conv2d(WIDTHS[0], outputs, 1)


def _convolved(channels: int, width: int, times: int) -> nn.Sequential:
    """``times`` 3x3 convolution, batch norm and ReLU."""
    layers: list[nn.Module] = []
    for start in (channels, *[width] * (times - 1)):
        layers += [nn.Conv2d(start, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class _Gate(nn.Module):
    """Which places of a skip (N, C, H, W) pass, in (0, 1), by it and by what comes from below (N, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.below = nn.Sequential(nn.Conv2d(width, half, 1), nn.BatchNorm2d(half))
        self.skip = nn.Sequential(nn.Conv2d(width, half, 1), nn.BatchNorm2d(half))
        self.joined = nn.Sequential(nn.Conv2d(half, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        share: Tensor = self.joined((self.below(below) + self.skip(skip)).relu())  # (N, 1, H, W)
        return skip * share


class _GatedStage(nn.Module):
    def __init__(self, below: int, width: int) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), *_convolved(below, width, 1))
        self.gate = _Gate(width)
        self.block = _convolved(2 * width, width, 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.up(x)
        out: Tensor = self.block(torch.cat([self.gate(up, skip), up], dim=1))
        return out
