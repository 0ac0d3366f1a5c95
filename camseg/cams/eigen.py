"""CAM methods that project a layer onto its leading principal component.

Raw maps (N, h, w). Only the leading singular vector is computed, from the smaller of the two Gram
matrices. Its sign, which the decomposition leaves open, is fixed so that the map correlates
positively with the size of what was projected: objects are where much is active.
"""

import torch
from torch import Tensor

from camseg.activations import Capture
from camseg.cams.gradient import gradients


def eigencam(capture: Capture) -> Tensor:
    """The centred activations' projection onto their first right singular vector -> (N, h, w).

    Muhammad and Yeasin, Eigen-CAM, IJCNN 2020, equations 3 and 4; centred over positions.
    """
    return _first_component(capture.activations)


def eigengradcam(capture: Capture) -> Tensor:
    """``eigencam`` of the activations times their gradients -> (N, h, w), which makes it class-specific."""
    return _first_component(gradients(capture) * capture.activations)


def _first_component(values: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h, w): for each image u_1 s_1 of the (positions x channels) matrix, sign fixed."""
    n, c, h, w = values.shape
    if values.device.type == "mps":  # which has neither float64 nor eigh
        return _first_component(values.cpu()).to(values.device)
    rows = values.flatten(2).transpose(1, 2).double()  # (N, hw, C)
    centred = rows - rows.mean(dim=1, keepdim=True)
    if h * w <= c:
        eigenvalues, vectors = torch.linalg.eigh(centred @ centred.transpose(1, 2))  # (N, hw, hw), ascending
        projection = vectors[..., -1] * eigenvalues[:, -1:].clamp_min(0).sqrt()  # (N, hw)
    else:
        _, vectors = torch.linalg.eigh(centred.transpose(1, 2) @ centred)  # (N, C, C)
        projection = (centred @ vectors[..., -1:])[..., 0]  # (N, hw)
    size = rows.norm(dim=2)  # (N, hw)
    correlation = (projection * (size - size.mean(dim=1, keepdim=True))).sum(dim=1, keepdim=True)
    signed = torch.where(correlation < 0, -projection, projection)
    return signed.reshape(n, h, w).float()
