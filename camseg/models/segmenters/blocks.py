"""What MultiResUNet and DC-UNet share: units of convolution and batch norm, widths, residual paths, the head."""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from camseg.models.segmenters.network import EncoderDecoder

STAGES: Final = (32, 64, 128, 256, 512)
"""U of the stages on the way down, the bridge's last."""


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm as Keras has it: a variance is taken as at least 1e-3, and averages go back 100 steps."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class GainlessBatchNorm(nn.BatchNorm2d):
    """Batch norm as Keras has it, with a bias alone: its gain is 1 and does not learn."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)
        gain = self.weight.detach()
        del self.weight
        self.register_buffer("weight", gain, persistent=False)


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm without gain, and ReLU unless told otherwise: (N, C, H, W) -> (N, width, H,
    W)."""

    def __init__(self, channels: int, width: int, kernel_size: int, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = GainlessBatchNorm(width)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out.relu() if self.relu else out


def chain_widths(stage: int) -> tuple[int, int, int]:
    """The channels of a block's three 3x3 convolutions: a sixth, a third and a half of 1.67 U."""
    whole = 1.67 * stage
    return int(whole * 0.167), int(whole * 0.333), int(whole * 0.5)


class Chain(nn.Module):
    """Three 3x3 units in a row, what each gives concatenated: they see 3x3, 5x5 and 7x7 pixels.

    Batch norm with gain (``bn_cat``) ends it. (N, C, H, W) -> (N, sum of ``chain_widths``, H, W).
    """

    def __init__(self, channels: int, stage: int) -> None:
        super().__init__()
        first, second, third = chain_widths(stage)
        self.conv3 = ConvUnit(channels, first, 3)
        self.conv5 = ConvUnit(first, second, 3)
        self.conv7 = ConvUnit(second, third, 3)
        self.bn_cat = batch_norm(first + second + third)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv3(x)
        second = self.conv5(first)
        normalised: Tensor = self.bn_cat(torch.cat([first, second, self.conv7(second)], dim=1))
        return normalised


class ResidualUnit(nn.Module):
    """A 3x3 unit beside a 1x1 unit without ReLU; their sum, ReLU, batch norm with gain."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.shortcut = ConvUnit(channels, width, 1, relu=False)
        self.conv = ConvUnit(channels, width, 3)
        self.bn = batch_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn((self.conv(x) + self.shortcut(x)).relu())
        return out


class UpStage(nn.Module):
    """A 2x2 transposed convolution of what lies below, the skip behind it, and a block of both."""

    def __init__(self, below: int, stage: int, block: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(below, stage, 2, stride=2)
        self.block = block(2 * stage, stage)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.block(torch.cat([self.up(x), skip], dim=1))
        return out


class ResidualPathNetwork(EncoderDecoder):
    """A U-Net of blocks whose skips go through residual paths; ``block``: (channels, U) -> a stage's block.

    The path at level i = 1 to 4 has 5 - i residual units of 32 to 256 channels, and takes what pooling takes. The head
    is a 1x1 convolution without bias and batch norm without gain, whose output is the logit.
    """

    def __init__(self, block: Callable[[int, int], nn.Module], inputs: int, outputs: int) -> None:
        super().__init__()
        channels = inputs
        for level, stage in enumerate(STAGES[:-1], 1):
            self.add_module(f"enc{level}", block(channels, stage))
            channels = sum(chain_widths(stage))
            units = (ResidualUnit(channels if unit == 0 else stage, stage) for unit in range(5 - level))
            self.add_module(f"path{level}", nn.Sequential(*units))
        self.bridge = block(channels, STAGES[-1])
        for level, (below, stage) in enumerate(pairwise(reversed(STAGES)), 6):
            self.add_module(f"dec{level}", UpStage(sum(chain_widths(below)), stage, block))
        self.head = ConvUnit(sum(chain_widths(STAGES[0])), outputs, 1, relu=False)
