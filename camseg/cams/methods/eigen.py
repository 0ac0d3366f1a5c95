"""CAM methods that project a layer onto its leading principal component.

Raw maps (N, h, w). Only the leading singular vector is computed, from the smaller of the two Gram
matrices. Its sign, which the decomposition leaves open, is fixed so that the map correlates
positively with the size of what was projected: objects are where much is active.
"""

from typing import Final

import torch
from torch import Tensor

from camseg.cams.capture import Capture
from camseg.cams.methods.gradient import gradients

_BLOCK: Final = 8
"""Directions that are iterated together: so many singular values may lie close to the first."""
_SQUARINGS: Final = 4
_PRODUCTS: Final = 12
"""The block is multiplied by the Gram matrix 12 * 2**4 = 192 times, which leaves nothing of the rest."""


def eigencam(capture: Capture) -> Tensor:
    """The centred activations' projection onto their first right singular vector -> (N, h, w).

    Muhammad and Yeasin, Eigen-CAM, IJCNN 2020, equations 3 and 4; centred over positions.
    """
    return _first_component(capture.activations)


def eigengradcam(capture: Capture) -> Tensor:
    """``eigencam`` of the activations times their gradients -> (N, h, w), which makes it class-specific."""
    return _first_component(gradients(capture) * capture.activations)


def _first_component(values: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h, w): for each image u_1 s_1 of the (positions x channels) matrix, sign fixed.

    A block of directions by the power method in float32, then the best direction within the block in float64
    (Rayleigh-Ritz), so that a close second singular value does no harm.
    """
    n, c, h, w = values.shape
    if values.device.type == "mps":  # which has neither float64 nor eigh
        return _first_component(values.cpu()).to(values.device)
    rows = values.flatten(2).transpose(1, 2)  # (N, hw, C)
    centred = rows - rows.mean(dim=1, keepdim=True)
    centred -= centred.mean(dim=1, keepdim=True)  # what rounding has left of large means
    largest = torch.linalg.vector_norm(centred, ord=torch.inf, dim=(1, 2), keepdim=True)  # (N, 1, 1)
    centred /= _at_least_tiny(largest)  # squares neither vanish nor overflow
    by_positions = h * w <= c
    matrix = centred if by_positions else centred.transpose(1, 2)  # (N, short, long)
    basis = _leading_block(matrix @ matrix.transpose(1, 2))  # (N, K, short)
    seen = basis @ matrix.double()  # (N, K, long)
    _, vectors = torch.linalg.eigh(seen @ seen.transpose(1, 2))  # (N, K, K), ascending
    best = vectors[..., -1:].transpose(1, 2)  # (N, 1, K)
    projection = best @ seen  # (N, 1, long)
    if by_positions:
        projection = (best @ basis) * projection.norm(dim=2, keepdim=True)
    projection = (projection * largest)[:, 0]  # (N, hw)
    size = values.flatten(2).norm(dim=1)  # (N, hw)
    correlation = (projection * (size - size.mean(dim=1, keepdim=True))).sum(dim=1, keepdim=True)
    signed = torch.where(correlation < 0, -projection, projection)
    return signed.reshape(n, h, w).float()


def _leading_block(gram: Tensor) -> Tensor:
    """Symmetric (N, s, s) -> orthonormal rows (N, K, s), float64, that span its leading eigenvectors."""
    power = _scaled(gram)  # its first eigenvalue is 1 / sqrt(s) or more, whose 16th power float32 still holds
    for _ in range(_SQUARINGS):
        power = power @ power
    power = _scaled(power)
    side = gram.shape[1]
    # Fixed, and of no pattern: what is iterated must not be orthogonal to the vector that is sought.
    start = torch.randn(side, min(_BLOCK, side), generator=torch.Generator().manual_seed(0))
    block = start.to(gram, non_blocking=True).expand(len(gram), -1, -1)  # (N, s, K)
    for _ in range(_PRODUCTS):
        block = power @ block
    basis: Tensor = torch.linalg.qr(_scaled(block).double()).Q.transpose(1, 2)
    return basis


def _scaled(matrices: Tensor) -> Tensor:
    return matrices / _at_least_tiny(matrices.norm(dim=(1, 2), keepdim=True))


def _at_least_tiny(values: Tensor) -> Tensor:
    return values.clamp_min(torch.finfo(values.dtype).tiny)
