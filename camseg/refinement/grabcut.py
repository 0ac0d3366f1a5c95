"""GrabCut: colour mixtures of object and background, and the cheapest cut between them."""

from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Alpha, Image, Mask, Trimap
from camseg.base.errors import SolverError
from camseg.refinement.nearest import nearest_known

if TYPE_CHECKING:
    from camseg.refinement.mixtures import Mixture

Mixtures: TypeAlias = "tuple[Mixture, Mixture]"
"""Of the background and of the foreground."""

GAMMA = 50.0
"""The cost of an edge between two pixels of the same colour."""
COMPONENTS = 5
"""Gaussians per mixture."""
ITERATIONS = 5
"""How often the colour mixtures are fitted and the cut is made."""
CORRECTIONS = 2
"""How often that is repeated at each finer size, from the result at half that size."""
MAX_SAMPLES = 100_000
"""The most colours that a mixture is fitted to."""
MAX_UNKNOWN = 2**17
"""The most unknown pixels that are cut without a start from half the size."""
REACH = 2
"""How far the outline can move from that start, in pixels of half the size."""


def grabcut(image: Image, trimap: Trimap) -> Alpha:
    """The graph cut of the unknown pixels under two colour mixtures, which the known ones start.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with foreground, background and unknown pixels. Returns
    float32 (H, W) of zeros and ones. Unknown pixels start as probably what their nearest known region is.
    The mixtures and the mean contrast are those of the whole image, as in OpenCV, whose constants these are;
    only unknown pixels are nodes of the graph, since a known neighbour's edge is a constant of the unknown pixel.
    More than ``MAX_UNKNOWN`` of them are first cut at half the size, and then only along that outline.
    The same bytes each time, in any thread: OpenCV's generator (one per thread) is seeded here.
    Raises SolverError where one of the two kinds of known pixels is missing.

    Rother, Kolmogorov, Blake, SIGGRAPH 2004.
    """
    if not _has_both_kinds(trimap):
        raise SolverError("GrabCut learns the colours of known foreground and background; the trimap lacks one of them")
    mask, _ = _segment(image, trimap, GAMMA)
    return mask.astype(np.float32)


def _segment(image: Image, trimap: Trimap, gamma: float) -> tuple[Mask, Mixtures]:
    """The mask, and the mixtures that it was cut with."""
    from camseg.refinement.mixtures import fit_mixture

    image, band = np.ascontiguousarray(image), trimap == UNKNOWN
    half = trimap[::2, ::2]
    if np.count_nonzero(band) > MAX_UNKNOWN and _has_both_kinds(half):
        # Every second pixel, not their mean: that would take the noise out of the mixtures. An outline has half as
        # many pixels there and an area a quarter, so an edge weighs half as much against a pixel.
        coarse, mixtures = _segment(image[::2, ::2], half, gamma / 2)
        mask = np.where(band, _doubled(coarse, band.shape), trimap == FOREGROUND)
        band &= ~_doubled(_settled(coarse) & (half == UNKNOWN), band.shape)
        return _iterate(image, mask, band, mixtures, gamma, CORRECTIONS)
    mask = nearest_known(trimap)
    cv2.setRNGSeed(0)
    background, foreground = (_sample(image, region) for region in (~mask, mask))
    mixtures = (
        fit_mixture(background, _cluster(background), COMPONENTS),
        fit_mixture(foreground, _cluster(foreground), COMPONENTS),
    )
    return _iterate(image, mask, band, mixtures, gamma, ITERATIONS)


def _iterate(
    image: Image, mask: Mask, band: Mask, mixtures: Mixtures, gamma: float, iterations: int
) -> tuple[Mask, Mixtures]:
    """Fit the mixtures to the mask and cut the band under them, so many times."""
    # numba loads for a second or more: only when needed.
    from camseg.refinement.cuts import contrast_graph, minimum_cut, squared_contrast
    from camseg.refinement.mixtures import fit_mixture, likeliest_component, log_likelihood

    height, width = band.shape
    pairs = 4 * height * width - 3 * (height + width) + 2
    beta = pairs / (2 * max(1, squared_contrast(image)))
    x, y, w, h = cv2.boundingRect(band.astype(np.uint8))
    window = np.s_[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1]  # with the neighbours of all nodes
    crop, nodes, inside = (np.ascontiguousarray(each[window]) for each in (image, band, mask))
    terminal, neighbours, capacities = contrast_graph(crop, nodes, inside, gamma, beta)
    colors, cost = image[band], np.zeros(len(terminal))
    for _ in range(iterations):
        background, foreground = (
            fit_mixture(sample, likeliest_component(sample, mixture), COMPONENTS)
            for sample, mixture in zip((_sample(image, ~mask), _sample(image, mask)), mixtures, strict=True)
        )
        mixtures = background, foreground
        previous, cost = cost, log_likelihood(colors, foreground) - log_likelihood(colors, background)
        terminal += cost - previous
        mask[band] = minimum_cut(terminal, neighbours, capacities)
    return mask, mixtures


def _has_both_kinds(trimap: Trimap) -> bool:
    return bool((trimap == FOREGROUND).any() and (trimap == BACKGROUND).any())


def _sample(image: Image, region: Mask) -> NDArray[np.uint8]:
    """The region's colours (N, 3): all, or ``MAX_SAMPLES``, one at random from each stretch of the raster."""
    pixels = np.flatnonzero(region)
    if len(pixels) > MAX_SAMPLES:
        steps = np.arange(MAX_SAMPLES) + np.random.default_rng(0).random(MAX_SAMPLES)
        pixels = pixels[(steps * (len(pixels) / MAX_SAMPLES)).astype(np.intp)]
    return image.reshape(-1, 3)[pixels]


def _cluster(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The cluster of each colour by k-means, as OpenCV starts GrabCut."""
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, 10, 0.0)
    count = min(COMPONENTS, len(colors))
    return cv2.kmeans(colors.astype(np.float32), count, None, criteria, 1, cv2.KMEANS_PP_CENTERS)[1][:, 0]


def _settled(mask: Mask) -> Mask:
    """Where all pixels within ``REACH`` are on the same side."""
    levels, kernel = mask.astype(np.uint8), np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
    return cv2.dilate(levels, kernel) == cv2.erode(levels, kernel)


def _doubled(mask: Mask, shape: tuple[int, ...]) -> Mask:
    return mask.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]
