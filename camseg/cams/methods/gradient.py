"""CAM methods that weigh activations A (N, C, h, w) by the gradients G of the score at the same layer.

Each function maps a Capture to raw maps (N, h, w): before the ReLU, unnormalised. Sums over k run over
channels, sums over i, j over the map's positions.
"""

from typing import Final

import torch
from torch import Tensor

from camseg.base.errors import InputError
from camseg.cams.capture import Capture

SAMPLES: Final = 8
"""Noisy copies of an image that Smooth Grad-CAM++ averages over."""
NOISE: Final = 0.15
"""Their deviation, as a share of the image's own range."""


def gradcam(capture: Capture) -> Tensor:
    """sum_k mean_ij(G_k) A_k -> (N, h, w). Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2."""
    return _weighted(capture, gradients(capture).mean(dim=(2, 3), keepdim=True))


def hirescam(capture: Capture) -> Tensor:
    """sum_k G_k A_k -> (N, h, w). Draelos and Carin, HiResCAM, 2020, equation 3."""
    return _weighted(capture, gradients(capture))


def gradcam_elementwise(capture: Capture) -> Tensor:
    """sum_k relu(G_k A_k) -> (N, h, w). Pillai and Pirsiavash, Explainable Models with Consistent
    Interpretations, AAAI 2021, where it is the element-wise Grad-CAM."""
    return (gradients(capture) * capture.activations).clamp_min(0).sum(dim=1)


def gradcam_plus_plus(capture: Capture) -> Tensor:
    """sum_k w_k A_k, w_k = sum_ij alpha_kij relu(G_kij), with
    alpha = G^2 / (2 G^2 + G^3 sum_ij A_k) -> (N, h, w).

    The score is taken as exp(S), whose higher derivatives are powers of G. Chattopadhay et al.,
    Grad-CAM++, WACV 2018, equations 5, 6 and 19. As in that paper's implementation, alpha is 0 where G is.
    """
    g = gradients(capture)
    total = capture.activations.sum(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
    alpha = g**2 / (2 * g**2 + g**3 * total + 1e-6)
    alpha = alpha.where(g != 0, 0.0)
    return _weighted(capture, (alpha * g.clamp_min(0)).sum(dim=(2, 3), keepdim=True))


def smooth_gradcam_plus_plus(capture: Capture) -> Tensor:
    """``gradcam_plus_plus`` with G, G^2 and G^3 averaged over noisy copies of the image -> (N, h, w).

    Each of the SAMPLES copies is the image plus Gaussian noise of NOISE times the difference between its largest
    and its smallest value. The noise comes from a seeded generator and is the same for every image. A is that of
    the image itself.

    Omeiza et al., Smooth Grad-CAM++, 2019. As in Grad-CAM++, alpha is 0 where G is.
    """
    inputs = capture.inputs  # (N, 3, H, W)
    deviation = NOISE * (inputs.amax(dim=(1, 2, 3), keepdim=True) - inputs.amin(dim=(1, 2, 3), keepdim=True))
    generator = torch.Generator().manual_seed(0)
    powers = [torch.zeros_like(capture.activations) for _ in range(3)]  # means of G, G^2 and G^3
    for _ in range(SAMPLES):
        noise = torch.randn(inputs.shape[1:], generator=generator).to(inputs)
        g = gradients(capture.recapture(inputs + deviation * noise))
        for power, mean in enumerate(powers, start=1):
            mean += g**power / SAMPLES
    first, second, third = powers
    total = capture.activations.sum(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
    alpha = second / (2 * second + third * total + 1e-6)
    alpha = alpha.where(second != 0, 0.0)
    return _weighted(capture, (alpha * first.clamp_min(0)).sum(dim=(2, 3), keepdim=True))


def xgradcam(capture: Capture) -> Tensor:
    """sum_k w_k A_k, w_k = sum_ij G_kij A_kij / sum_ij A_kij -> (N, h, w).

    Fu et al., Axiom-based Grad-CAM, BMVC 2020, equation 7.
    """
    total = capture.activations.sum(dim=(2, 3), keepdim=True) + 1e-7
    weights = (gradients(capture) * capture.activations / total).sum(dim=(2, 3), keepdim=True)
    return _weighted(capture, weights)


def layercam(capture: Capture) -> Tensor:
    """sum_k relu(G_k) A_k -> (N, h, w). Jiang et al., LayerCAM, IEEE TIP 2021, equations 6 to 8."""
    return _weighted(capture, gradients(capture).clamp_min(0))


def gradients(capture: Capture) -> Tensor:
    """The capture's gradients; InputError when it was made without them."""
    if capture.gradients is None:
        raise InputError("this method needs gradients; capture with gradients=True")
    return capture.gradients


def _weighted(capture: Capture, weights: Tensor) -> Tensor:
    return (weights * capture.activations).sum(dim=1)  # (N, h, w)
