"""Pixel-adaptive refinement: every pixel becomes a mean of its neighbours, weighted by likeness of colour."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from camseg.propagation.parameters import ParSettings


def par(images: Tensor, maps: Tensor, settings: ParSettings) -> Tensor:
    """Pixel-adaptive refinement of maps (N, K, h, w) by images (N, 3, h, w) in [0, 1] -> (N, K, h, w).

    Every pixel i becomes sum_j w_ij m_j over its neighbours j, the rings of eight at each dilation:
    w_ij = softmax_j(-mean_c (|x_i - x_j| / (s_i a))^2) + b softmax_j(-(|i - j| / (s' a))^2), with s_i the
    standard deviation of the colours, s' of the distances, over the neighbours of i, a the colour width
    and b the position weight, divided by 1 + b. Repeated for ``rounds``. Neighbours beyond the border
    repeat the border's pixel.

    Ru et al., Learning Affinity from Attention, CVPR 2022, section 3.3, equations 7 to 9.
    """
    offsets = [
        (row * d, column * d)
        for d in settings.dilations
        for row in (-1, 0, 1)
        for column in (-1, 0, 1)
        if (row, column) != (0, 0)
    ]
    weights = _weights(images, offsets, settings).unbind(0)  # P times (N, 1, h, w)
    for _ in range(settings.rounds):
        spread = torch.zeros_like(maps)
        for weight, neighbour in zip(weights, _neighbours(maps, offsets), strict=True):
            spread.addcmul_(weight, neighbour)
        maps = spread
    return maps


def _weights(images: Tensor, offsets: Sequence[tuple[int, int]], settings: ParSettings) -> Tensor:
    """Images (N, 3, h, w) -> the weight of each neighbour, (P, N, 1, h, w)."""
    # Neighbour by neighbour: P shifted copies at once would not stay in the processor's cache.
    neighbours = _neighbours(images, offsets)
    mean = torch.zeros_like(images)
    for neighbour in neighbours:
        mean.add_(neighbour, alpha=1.0 / len(offsets))
    squares = torch.zeros_like(images)
    for neighbour in neighbours:
        difference = neighbour - mean
        squares.addcmul_(difference, difference)
    deviation = (squares / (len(offsets) - 1)).sqrt_()
    scale = 1.0 / ((deviation + 1e-8) * settings.color_width)
    unlike = images.new_empty(len(offsets), len(images), 1, *images.shape[2:])
    for neighbour, mean_square in zip(neighbours, unlike, strict=True):
        torch.mean((neighbour - images).mul_(scale).square_(), dim=1, keepdim=True, out=mean_square)
    colors = unlike.neg_().softmax(dim=0)
    distances = torch.tensor([math.hypot(*offset) for offset in offsets], device=images.device)
    nearness = (-((distances / (distances.std() + 1e-8) / settings.color_width) ** 2)).softmax(dim=0)
    b = settings.position_weight
    return colors.add_(nearness.view(-1, 1, 1, 1, 1), alpha=b).div_(1.0 + b)


def _neighbours(values: Tensor, offsets: Sequence[tuple[int, int]]) -> list[Tensor]:
    """(N, C, h, w) -> for each offset, as a view of that shape, the values that many rows down and columns right."""
    height, width = values.shape[2:]
    reach = max(max(offset) for offset in offsets)
    padded = functional.pad(values, (reach, reach, reach, reach), mode="replicate")
    return [padded[:, :, reach + r : reach + r + height, reach + c : reach + c + width] for r, c in offsets]
