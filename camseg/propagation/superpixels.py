"""Superpixel voting: every superpixel of the image takes the mean of the map over it."""

import numpy as np
import torch
from torch import Tensor

from camseg.propagation.parameters import SuperpixelSettings


def superpixels(images: Tensor, maps: Tensor, settings: SuperpixelSettings) -> Tensor:
    """Means of maps (N, K, h, w) over the superpixels of images (N, 3, h, w) in [0, 1] -> (N, K, h, w).

    The superpixels are scikit-image's, found on the CPU wherever the maps are.

    Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, PAMI 2012.
    """
    from skimage.segmentation import slic

    voted = torch.empty_like(maps)
    for image, values, result in zip(images, maps, voted, strict=True):
        pixels = image.permute(1, 2, 0).cpu().numpy()
        labels = slic(pixels, n_segments=settings.count, compactness=settings.compactness, start_label=0)
        flat = labels.ravel()
        sizes = np.bincount(flat)
        for one, out in zip(values, result, strict=True):
            sums = np.bincount(flat, one.cpu().numpy().ravel())
            means = (sums / np.maximum(sizes, 1)).astype(np.float32)
            out.copy_(torch.from_numpy(means[labels]))
    return voted
