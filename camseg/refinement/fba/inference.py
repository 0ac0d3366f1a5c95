"""FBA matting of photographs: the network's inputs, tiles for large images, and what is known put back."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from camseg.base.arrays import (
    BACKGROUND,
    FOREGROUND,
    UNKNOWN,
    Alpha,
    Colors,
    Image,
    Trimap,
    check_image,
    check_same_size,
    check_trimap,
)
from camseg.base.errors import InputError, first_line
from camseg.base.geometry import squared_distance
from camseg.refinement.fba.network import FbaNetwork
from camseg.refinement.fba.weights import load_network

Tile: TypeAlias = tuple[slice, slice]

TILE = 1024
"""Longest side of a tile, pixels, a multiple of 8; images of at most its square are run whole."""
OVERLAP = 256
"""Pixels that neighbouring tiles share at least, and that tiles reach beyond the unknown pixels."""
UNTRUSTED = 64
"""Pixels at a tile's inner border that get no weight: there the network sees padding instead of the image."""
REACH = 15 * 52
"""Pixels: a known region farther away than this is zero in every distance channel, in float32."""


@dataclass(frozen=True, eq=False)
class Fba:
    """A refiner: ``fba(image, trimap)`` -> alpha. ``load_fba`` makes one."""

    network: FbaNetwork
    """In evaluation mode, its weights standardised."""
    device: torch.device
    """Where the network is."""

    def __call__(self, image: Image, trimap: Trimap) -> Alpha:
        """The alpha of ``matte``, with less memory: no colours are kept."""
        return self._solve(image, trimap, ())

    def matte(self, image: Image, trimap: Trimap) -> tuple[Alpha, Colors, Colors]:
        """The share of foreground in each pixel, and the colours of foreground and background.

        ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) in {0, 128, 255}. Returns alpha, float32 (H, W), and
        F and B, float32 (H, W, 3), all in [0, 1]: alpha is what the trimap says where it says it, F is the image
        where alpha is 1, B is the image where alpha is 0. The same bytes each time.

        An image of at most ``TILE`` x ``TILE`` pixels is run whole, as published. A larger one is run in tiles around
        its unknown pixels, blended where they overlap; where no tile was run, F and B are the image. Each tile
        sees the distances to the known regions of the whole image, but its group norms and pyramid pooling
        average over the tile alone. Raises InputError.

        Forte and Pitie, F, B, Alpha Matting, 2020 (arXiv:2003.07711).
        """
        check_image(image)
        foreground, background = _scaled(image), _scaled(image)
        alpha = self._solve(image, trimap, (foreground, background))
        for colors, alone in ((foreground, alpha == 1), (background, alpha == 0)):
            colors.clip(0, 1, out=colors)
            colors[alone] = _scaled(image[alone])
        return alpha, foreground, background

    def _solve(self, image: Image, trimap: Trimap, colors: Sequence[Colors]) -> Alpha:
        """Alpha; ``colors``, none or F and B, come as copies of the image and are filled in place."""
        check_same_size(check_image(image), check_trimap(trimap), "image and trimap")
        alpha = (trimap == FOREGROUND).astype(np.float32)
        for window, weight in _windows(trimap):
            output = self._predict(image, trimap, window)  # (h, w, 7)
            alpha[window] += np.where(trimap[window] == UNKNOWN, weight * output[..., 0], 0)
            for color, values in zip(colors, (output[..., 1:4], output[..., 4:]), strict=False):
                # The weights of the tiles that are run sum to one, or to less beside tiles that need none: there
                # the colours pass into the image's.
                color[window] += weight[..., None] * (values - _scaled(image[window]))
        return alpha.clip(0, 1, out=alpha)

    def _predict(self, image: Image, trimap: Trimap, window: Tile) -> NDArray[np.float32]:
        """Alpha, F and B in one window, (h, w, 7)."""
        height, width = trimap[window].shape
        if (height, width) != trimap.shape:
            return self._forward(*_tile_inputs(image, trimap, window))[:height, :width]
        output = self._forward(*_inputs(image, trimap))
        return cv2.resize(output, (width, height), interpolation=cv2.INTER_LINEAR)

    def _forward(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Arrays (h, w, C) of the network's three inputs -> its output, (h, w, 7)."""
        # TensorFloat-32 keeps three digits, and the algorithm that is fastest today may differ tomorrow.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            output = self.network(*(torch.from_numpy(x).permute(2, 0, 1)[None].to(self.device) for x in inputs))
            return output[0].permute(1, 2, 0).contiguous().cpu().numpy()


def load_fba(weights: Path | str, device: str | torch.device = "cpu") -> Fba:
    """Load the published weights of FBA matting, which are for non-commercial use.

    ``weights``: a ``.safetensors`` file, or a PyTorch file of tensors alone, which is read with weights-only
    loading; ``device``: as torch names it. Raises CheckpointError when it cannot be read or does not hold the
    network's parameters; InputError for a device that is not there.

    Forte and Pitie, F, B, Alpha Matting, 2020 (arXiv:2003.07711). Laptev and Gerget, whose annotation pipeline
    refines trimaps in this way, cite another network of the same letters (Chung et al. 2023, contrastive
    segmentation of the atrium).
    """
    network = load_network(weights)
    try:
        return Fba(network.to(device), torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device} cannot be used here ({first_line(error)}); try cpu") from None


def _windows(trimap: Trimap) -> Iterator[tuple[Tile, Alpha]]:
    """The windows to run, all with unknown pixels, and the weight (h, w) of each."""
    unknown = trimap == UNKNOWN
    if not unknown.any():
        return
    if trimap.size <= TILE**2:
        yield np.s_[:, :], np.ones(trimap.shape, np.float32)
        return
    rows, columns = (_spans(unknown.any(axis=axis)) for axis in (1, 0))
    for (down, vertical), (across, horizontal) in itertools.product(rows, columns):
        if unknown[down, across].any():
            yield (down, across), np.outer(vertical, horizontal)


def _spans(unknown: NDArray[np.bool_]) -> list[tuple[slice, NDArray[np.float32]]]:
    """Overlapping spans over the true places of an axis (n,), each with its weights; the weights sum to one."""
    places = np.flatnonzero(unknown)
    start, stop = max(0, places[0] - OVERLAP), min(unknown.size, places[-1] + 1 + OVERLAP)
    count = max(1, math.ceil((stop - start - OVERLAP) / (TILE - OVERLAP)))
    length = min(stop - start, _multiple_of_8(math.ceil((stop - start + (count - 1) * OVERLAP) / count)))
    firsts = np.linspace(start, stop - length, count).astype(int)  # (count,)
    along = np.arange(start, stop) - firsts[:, None] + 0.5  # (count, stop - start): how far into each span
    rising, falling = along, length - along
    rising[0] = falling[-1] = np.inf  # no tile lies beyond
    weights = np.clip((np.minimum(rising, falling) - UNTRUSTED) / (OVERLAP - 2 * UNTRUSTED), 0, 1)
    weights = (weights / weights.sum(axis=0)).astype(np.float32)
    return [
        (slice(first, first + length), row[first - start : first - start + length])
        for first, row in zip(firsts, weights, strict=True)
    ]


def _inputs(image: Image, trimap: Trimap) -> tuple[NDArray[np.float32], ...]:
    """Image (h, w, 3), regions (h, w, 2) and squared distances (h, w, 2), resized up to multiples of 8."""
    height, width = trimap.shape
    size = _multiple_of_8(width), _multiple_of_8(height)
    observed, regions = _scaled(image), _regions(trimap)
    known = regions == 1
    if size != (width, height):
        precise = image / 255, regions.astype(np.float64)
        observed, regions = (cv2.resize(x, size, interpolation=cv2.INTER_LANCZOS4) for x in precise)
        # The published code counts in 8 bits what Lanczos made of the regions, where over- and undershoot wrap.
        known = np.trunc((1 - regions) * 255) % 256 == 0
    return observed.astype(np.float32), regions.astype(np.float32), _squared_distances(known)


def _tile_inputs(image: Image, trimap: Trimap, window: Tile) -> tuple[NDArray[np.float32], ...]:
    """The inputs (h, w, C) of a tile: its border repeated to multiples of 8, its distances the whole image's."""
    grown = tuple(slice(max(0, span.start - REACH), span.stop + REACH) for span in window)
    inner = tuple(slice(span.start - out.start, span.stop - out.start) for span, out in zip(window, grown, strict=True))
    squares = _squared_distances(_regions(trimap[grown]) == 1)[inner]
    height, width = trimap[window].shape
    padding = (0, _multiple_of_8(height) - height), (0, _multiple_of_8(width) - width), (0, 0)
    arrays = _scaled(image[window]), _regions(trimap[window]), squares
    return tuple(np.pad(array, padding, mode="edge") for array in arrays)


def _regions(trimap: Trimap) -> NDArray[np.float32]:
    """Background and foreground (h, w, 2) as zeros and ones."""
    return np.stack([trimap == BACKGROUND, trimap == FOREGROUND], axis=2).astype(np.float32)


def _squared_distances(known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Regions (h, w, 2) -> the squared distance to each in pixels, (h, w, 2); infinite to one that is empty."""
    return np.stack([squared_distance(known[..., channel]) for channel in range(2)], axis=2)


def _scaled(image: Image) -> Colors:
    return image.astype(np.float32) / np.float32(255)


def _multiple_of_8(length: int) -> int:
    return -(-length // 8) * 8
