"""CAM methods that weigh channels by what the network says when only they are shown.

Raw maps (N, h, w). They run the network again, once per channel.
"""

import torch
from torch import Tensor
from torch.nn import functional

from camseg.activations import Capture

_BATCH = 32
"""Masked images per pass: enough to fill a CPU, few enough for memory at usual input sizes."""


def scorecam(capture: Capture) -> Tensor:
    """sum_k softmax_k(S(input * H_k)) A_k -> (N, h, w), H_k = A_k upsampled and scaled to [0, 1].

    Wang et al., Score-CAM, CVPR Workshops 2020, equations 4 to 7. As in its reference implementation
    the weights are a softmax over channels and the baseline, an input of zeros, is left out of it,
    which the softmax is blind to.
    """
    return torch.stack([_one(capture, n) for n in range(len(capture.inputs))])


def _one(capture: Capture, n: int) -> Tensor:
    image, activations = capture.inputs[n], capture.activations[n]  # (3, H, W), (C, h, w)
    scores = []
    for chunk in activations.split(_BATCH):
        masks = functional.interpolate(chunk[:, None], size=image.shape[1:], mode="bilinear", align_corners=True)
        low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
        masks = (masks - low) / (high - low + 1e-8)  # (K, 1, H, W)
        scores.append(capture.rescore(image * masks, n))
    weights = torch.cat(scores).softmax(dim=0)  # (C,)
    return torch.einsum("c,chw->hw", weights, activations)
