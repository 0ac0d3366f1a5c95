"""Dense conditional random field: mean field with a kernel of likeness and one of nearness between all pixels."""

import torch
from torch import Tensor

from camseg.propagation.parameters import CrfSettings

_LONELY = 1e-12
"""Weights whose sum is smaller say nothing: the pixel has none that is like it."""


def crf(images: Tensor, maps: Tensor, settings: CrfSettings) -> Tensor:
    """Mean field of a dense CRF: images (N, 3, h, w) in [0, 1] and maps (N, K, h, w) -> (N, K, h, w).

    Each map is one question, object or not, and its values p, clipped, are the object's probability. From q = p on,
    every round sets q_i = sigmoid(logit p_i + w m_i + w' m'_i), where m_i is the mean of 2 q_j - 1 over all other
    pixels j, weighted by a Gaussian of position and colour, and m'_i by one of position alone: Potts' model for two
    labels. The sums run over all pairs of pixels, without approximation.

    Kraehenbuehl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials,
    NIPS 2011, equations 2 and 3 and algorithm 1. Their kernels are sums; means need no other weights for
    other numbers of pixels.
    """
    height, width = maps.shape[2:]
    unary = maps.clamp(1.0 - settings.certainty, settings.certainty).logit()
    steps = torch.arange(max(height, width), device=maps.device) / max(height, width)
    rows, columns = torch.meshgrid(steps[:height], steps[:width], indexing="ij")
    places = torch.stack([rows, columns])[None].expand(len(images), -1, -1, -1)
    points = torch.cat([places / settings.appearance_width, images / settings.color_width], dim=1).flatten(2)  # (N,5,P)
    near = _gaussian((steps / settings.smoothness_width)[None])
    down, across = near[:height, :height], near[:width, :width]

    def nearby(values: Tensor) -> Tensor:
        # A Gaussian of position is one of rows times one of columns; only the pixel itself takes no part.
        beside = values @ across
        return down @ (values + beside) + beside

    near_sums = nearby(maps.new_ones(height, width)).clamp_min_(_LONELY)
    spread = torch.empty_like(maps)
    for point, given, result in zip(points, unary, spread, strict=True):  # one kernel at a time in memory
        alike = _gaussian(point)  # (P, P)
        alike_sums = alike.sum(dim=0).clamp_min_(_LONELY)
        field = given  # (K, h, w)
        for _ in range(settings.rounds):
            sides = (field / 2).tanh()  # 2 q - 1
            likely = (sides.flatten(1) @ alike / alike_sums).view_as(sides)
            smooth = nearby(sides) / near_sums
            field = given + settings.appearance_weight * likely + settings.smoothness_weight * smooth
        torch.sigmoid(field, out=result)
    return spread


def _gaussian(points: Tensor) -> Tensor:
    """Points (D, P) -> exp(-|x - y|^2 / 2) of every two, 0 of a point and itself, (P, P)."""
    # x y - x^2 / 2 - y^2 / 2 in one product of matrices: nothing but the kernel itself takes its room.
    half, one = points.square().sum(dim=0, keepdim=True) / 2, torch.ones_like(points[:1])
    return (torch.cat([points, -half, one]).T @ torch.cat([points, one, -half])).exp_().fill_diagonal_(0.0)
