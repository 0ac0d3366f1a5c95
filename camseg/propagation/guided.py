"""Guided filter: in every window the map becomes the affine function of the colours that fits it best."""

import torch
from torch import Tensor
from torch.nn import functional

from camseg.propagation.parameters import GuidedSettings


def guided(images: Tensor, maps: Tensor, settings: GuidedSettings) -> Tensor:
    """Guided filter of maps (N, K, h, w) by images (N, 3, h, w) in [0, 1] -> (N, K, h, w), not below 0.

    In every window of side 2 r + 1, cut at the border, a = (S + eps 1)^-1 cov(I, p) and b = mean(p) - a mean(I),
    with S the covariance of the colours I and p the map; a pixel's result is mean(a) I + mean(b), the means over
    all windows that hold it.

    He, Sun and Tang, Guided Image Filtering, PAMI 2013, equations 19 to 21.
    """
    radius = max(1, round(settings.radius * max(maps.shape[2:])))
    count = maps.shape[1]
    # Covariances are small differences of means; around 0 they lose fewer digits.
    colors = images - images.mean(dim=(2, 3), keepdim=True)
    pairs = [(c, d) for c in range(3) for d in range(c, 3)]
    squares = torch.stack([colors[:, c] * colors[:, d] for c, d in pairs], dim=1)  # (N, 6, h, w)
    products = (colors[:, :, None] * maps[:, None]).flatten(1, 2)  # (N, 3 K, h, w)
    means = _box(torch.cat([colors, maps, squares, products], dim=1), radius)
    color, map_, square, product = means.split([3, count, 6, 3 * count], dim=1)
    # Six numbers of a symmetric matrix, and its inverse by cofactors.
    rr, rg, rb, gg, gb, bb = (
        square[:, n] - color[:, c] * color[:, d] + settings.smoothness * (c == d) for n, (c, d) in enumerate(pairs)
    )
    cofactors = [gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb]
    cofactors += [rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg]
    determinant = rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2]
    at = {pair: cofactor / determinant for pair, cofactor in zip(pairs, cofactors, strict=True)}
    covariance = product.unflatten(1, (3, count)) - color[:, :, None] * map_[:, None]  # (N, 3, K, h, w)
    slope = torch.stack(
        [sum(at[min(c, d), max(c, d)][:, None] * covariance[:, d] for d in range(3)) for c in range(3)], dim=1
    )  # (N, 3, K, h, w)
    offset = map_ - (slope * color[:, :, None]).sum(dim=1)  # (N, K, h, w)
    smooth = _box(torch.cat([slope.flatten(1, 2), offset], dim=1), radius)
    slope, offset = smooth.split([3 * count, count], dim=1)
    fitted: Tensor = ((slope.unflatten(1, (3, count)) * colors[:, :, None]).sum(dim=1) + offset).clamp_min(0.0)
    return fitted


def _box(values: Tensor, radius: int) -> Tensor:
    """(N, C, h, w) -> the means over windows of side 2 radius + 1; only what lies inside the image counts."""
    side = 2 * radius + 1
    rows = functional.avg_pool2d(values, (side, 1), 1, (radius, 0), count_include_pad=False)
    return functional.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)
