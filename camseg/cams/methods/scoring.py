"""CAM methods that weigh channels by what the network says when only they are shown, or when they are missing.

Raw maps (N, h, w). They run the network again, once per channel.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from camseg.cams.capture import Capture
from camseg.cams.methods.folding import folded

BATCH = 32
"""Inputs per pass on a CPU: enough to fill it, few enough for memory at usual input sizes."""
GPU_BATCH = 128
"""Inputs per pass elsewhere."""
_VALUES = 2**24
"""Numbers in the changed activations of one pass."""


def scorecam(capture: Capture) -> Tensor:
    """sum_k softmax_k(S(input * H_k)) A_k -> (N, h, w), H_k = A_k upsampled and scaled to [0, 1].

    With ``capture.score_channels`` only that many channels of an image are tried, those that vary most over the
    map; the others count as if they had scored the mean of these. Batch norms are folded into convolutions where
    the network allows it.

    Wang et al., Score-CAM, CVPR Workshops 2020, equations 4 to 7. As in its reference implementation
    the weights are a softmax over channels and the baseline, an input of zeros, is left out of it,
    which the softmax is blind to. A channel that is the same everywhere masks all of the input.
    """
    activations, inputs = capture.activations, capture.inputs  # (N, C, h, w)
    first = capture.only([0])
    quick = replace(capture, network=folded(capture.network, first.inputs, first.targets, first.regions))
    flat = activations.flatten(2)
    varied = flat.amax(dim=2) > flat.amin(dim=2)  # (N, C)
    energy = (flat - flat.mean(dim=2, keepdim=True)).square().sum(dim=2)
    tried = _largest(energy, capture.score_channels)  # (N, C)
    scores = torch.zeros_like(energy)
    # All of an image's channels that mask everything share one score.
    rows = (tried & ~varied).any(dim=1).nonzero()[:, 0]
    if len(rows):
        empty = quick.rescore(torch.zeros_like(inputs[:1]).expand(len(rows), -1, -1, -1), rows)
        scores[rows] = torch.where(tried[rows] & ~varied[rows], empty[:, None], scores[rows])
    # Batches are filled across images.
    images, channels = (tried & varied).nonzero(as_tuple=True)  # (P,)
    for n, k in zip(images.split(batch_size(inputs)), channels.split(batch_size(inputs)), strict=True):
        masks = functional.interpolate(
            activations[n, k][:, None], size=inputs.shape[2:], mode="bilinear", align_corners=True
        )
        low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
        masks = (masks - low) / (high - low + 1e-8)  # (M, 1, H, W)
        # In the order in which the network's weights lie; else every layer reorders its input first.
        shown = (inputs[n] * masks).contiguous(memory_format=torch.channels_last)
        scores[n, k] = quick.rescore(shown, n)
    mean = (scores * tried).sum(dim=1, keepdim=True) / tried.sum(dim=1, keepdim=True)
    weights = scores.where(tried, mean).softmax(dim=1)  # (N, C)
    return torch.einsum("nc,nchw->nhw", weights, activations)


def ablationcam(capture: Capture) -> Tensor:
    """sum_k w_k A_k, w_k = (S - S_k) / |S|, S_k the score with channel k set to zero -> (N, h, w).

    With ``capture.score_channels`` only that many channels of an image have a weight, those of the largest
    sum of squares. Only what lies behind the layer runs once per channel.

    Desai and Ramaswamy, Ablation-CAM, WACV 2020. The paper divides by S, which is positive
    there; logits and margins need not be, and a negative one would turn the map inside out: hence |S|.
    """
    return torch.stack([_ablated(capture, n) for n in range(len(capture.inputs))])


def batch_size(inputs: Tensor) -> int:
    """How many inputs a pass takes on this device."""
    return BATCH if inputs.device.type == "cpu" else GPU_BATCH


def _ablated(capture: Capture, n: int) -> Tensor:
    activations = capture.activations[n]  # (C, h, w)
    energy = activations.square().sum(dim=(1, 2))
    # What is zero already changes nothing when set to zero.
    chosen = (_largest(energy[None], capture.score_channels)[0] & (energy > 0)).nonzero()[:, 0]  # (K,)
    size = max(1, min(256, _VALUES // activations.numel()))
    weights = torch.zeros_like(energy)  # (C,)
    whole = capture.rescore_activations(activations[None], n)  # (1,)
    for channels in chosen.split(size):
        without = activations.repeat(len(channels), 1, 1, 1)  # (M, C, h, w)
        without[torch.arange(len(channels)), channels] = 0
        weights[channels] = whole - capture.rescore_activations(without, n)
    weights = weights / whole.abs().clamp_min(1e-8)
    return torch.einsum("c,chw->hw", weights, activations)


def _largest(energy: Tensor, count: int | None) -> Tensor:
    """Which channels of each image have the largest energy (N, C): ``count`` of them, or all."""
    if count is None or count >= energy.shape[1]:
        return torch.ones_like(energy, dtype=torch.bool)
    chosen = energy.topk(count, dim=1).indices
    return torch.zeros_like(energy, dtype=torch.bool).scatter(1, chosen, True)
