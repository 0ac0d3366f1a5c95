"""Input attributions: how much each pixel of the input counts, whatever the layer.

Raw maps (N, H, W), at the size of the network's input. The baseline, where one is needed, is the mean colour:
an input of zeros, which is what normalisation makes of it.
"""

from typing import Final

import torch
from torch import Tensor

from camseg.cams.capture import Capture
from camseg.cams.methods.scoring import batch_size

STEPS: Final = 32
"""Points of the path that integrated gradients sum over."""
PLACES: Final = 15
"""Positions of the occluding patch along each side of the input."""


def saliency(capture: Capture) -> Tensor:
    """max over colour channels of |dS / dx| -> (N, H, W).

    Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks, ICLR Workshops 2014, section 3.1.
    """
    return capture.input_gradients(capture.inputs).abs().amax(dim=1)


def integrated_gradients(capture: Capture) -> Tensor:
    """sum over colour channels of x times the mean of dS / dx along the straight line from 0 to x -> (N, H, W).

    The values of a map add up to S(x) - S(0), but for the error of the midpoint rule with STEPS points.

    Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equations 1 and 3.
    """
    total = torch.zeros_like(capture.inputs)
    for step in range(STEPS):
        total += capture.input_gradients(capture.inputs * ((step + 0.5) / STEPS))
    return (capture.inputs * total / STEPS).sum(dim=1)


def occlusion(capture: Capture) -> Tensor:
    """How far S drops when a grey patch hides a pixel, averaged over the patches that do -> (N, H, W).

    The patch is an eighth of the input's side wide and moves by half its width, so that it takes at most PLACES
    squared positions, whatever the input's size.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2. There the map
    is of the score that is left; the drop, so that what counts is high, differs by sign and a constant.
    """
    inputs = capture.inputs
    height, width = inputs.shape[2:]
    places = [(row, column) for row in _places(height) for column in _places(width)]
    patches = torch.zeros(len(places), height, width, dtype=torch.bool, device=inputs.device)
    for patch, (row, column) in zip(patches, places, strict=True):
        patch[row, column] = True
    whole = capture.rescore(inputs, torch.arange(len(inputs), device=inputs.device))  # (N,)
    drops = inputs.new_empty(len(inputs), len(places))
    images, which = torch.ones_like(drops).nonzero(as_tuple=True)  # (N places,), batches are filled across images
    size = batch_size(inputs)
    for n, k in zip(images.split(size), which.split(size), strict=True):
        hidden = inputs[n].masked_fill(patches[k][:, None], 0.0)
        drops[n, k] = whole[n] - capture.rescore(hidden, n)
    covers = patches.to(drops.dtype).flatten(1)  # (places, H W)
    maps: Tensor = (drops @ covers / covers.sum(dim=0)).unflatten(1, (height, width))
    return maps


def _places(side: int) -> list[slice]:
    patch, step = -(-side // 8), -(-side // 16)
    starts = [*range(0, side - patch, step), side - patch]
    return [slice(start, start + patch) for start in starts]
