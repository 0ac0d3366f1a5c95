"""The energy of a conditional random field as a loss: neighbours of like colour should be of the same class.

Obukhov et al., Gated CRF Loss for Weakly Supervised Semantic Image Segmentation, NeurIPS Workshops 2019: a Potts model,
dense within a window around each pixel, which needs no masks. Its gates, which leave out pixels, are not needed here:
what lies beside an image is of one colour that touches it nowhere.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

RADIUS: Final = 5
"""Half the side of the window, pixels of the reduced image."""
NEAR: Final = 6.0
"""Deviation of the kernel over places, pixels of the reduced image."""
ALIKE: Final = 0.1
"""Deviation of the kernel over colours in [0, 1]."""
LARGEST: Final = 112
"""Larger images are reduced to about this side, on which a window is seen at all; as in the paper, at a part of the
network's size."""


def crf_loss(logits: Tensor, squares: Tensor, multi_label: bool) -> Tensor:
    """The mean energy of a pixel, a scalar >= 0: sum over its window of kernel times disagreement.

    logits: float32 (N, channels, h, w); squares: what they are of, uint8 (N, h, w, 3). The kernel is
    exp(-d^2 / (2 NEAR^2) - c^2 / (2 ALIKE^2)) of the distances d of places and c of colours, and the disagreement the
    probability that two pixels, drawn by what the network says of them, are not of one class; of independent classes
    its mean over them.
    """
    y = _probabilities(logits, multi_label)  # (N, groups, parts, h, w)
    groups, parts = y.shape[1:3]
    factor = max(1, round(y.shape[-1] / LARGEST))
    reduced = functional.avg_pool2d(y.flatten(1, 2), factor).unflatten(1, (groups, parts))
    images = functional.avg_pool2d(squares.permute(0, 3, 1, 2).float() / 255.0, factor)  # (N, 3, h, w)
    total = y.new_zeros(())
    # Half of the window: the other half are the same pairs.
    steps = [(dy, dx) for dy in range(RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1) if (dy, dx) > (0, 0)]
    for dy, dx in steps:
        first, second = _pair(images, dy, dx)
        with torch.no_grad():
            apart = (dy * dy + dx * dx) / (2.0 * NEAR**2)
            kernel = (-apart - (first - second).square().sum(dim=1) / (2.0 * ALIKE**2)).exp()  # (N, h', w')
        ours, theirs = _pair(reduced, dy, dx)
        differ = 1.0 - (ours * theirs).sum(dim=2).mean(dim=1)  # (N, h', w')
        total = total + 2.0 * (kernel * differ).sum()
    return total / images[:, 0].numel()


def _probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    """(N, channels, h, w) -> (N, groups, parts, h, w), the parts of each group adding up to 1."""
    if not multi_label:
        return logits.softmax(dim=1)[:, None]
    p = logits.sigmoid()
    return torch.stack([p, 1.0 - p], dim=2)


def _pair(maps: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """The parts of maps (..., h, w) that lie over each other when one is moved by (dy, dx), dy >= 0."""
    height, width = maps.shape[-2:]
    left, right = max(0, -dx), max(0, dx)
    first = maps[..., : height - dy, left : width - right]
    return first, maps[..., dy:, right : width - left]
