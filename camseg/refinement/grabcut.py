"""GrabCut: colour mixtures of object and background, and the cheapest cut between them."""

import itertools
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Alpha, Image, Mask, Trimap
from camseg.base.errors import SolverError, first_line
from camseg.refinement.nearest import nearest_known

Labels: TypeAlias = NDArray[np.uint8]
"""(H, W): OpenCV's four kinds of pixels, of which the two probable ones come last: GC_PR_BGD and GC_PR_FGD."""
Mixtures: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Of the background and of the foreground, (1, 65) each, as OpenCV lays them out."""

MAX_SAMPLES = 20_000
"""The most colours of each side that the mixtures are fitted to."""
FITTED_ONCE = 2**14
"""The most unknown pixels whose mixtures are fitted a single time, which is enough for them."""
MAX_UNKNOWN = 2**16
"""The most unknown pixels that are cut without a start from half the size."""
REACH = 3
"""How far the outline can move from that start, in pixels of half the size."""
TILE = 512
"""The side of what is cut at once, in pixels: OpenCV takes some 250 bytes for each, known ones too."""


def grabcut(image: Image, trimap: Trimap) -> Alpha:
    """The graph cut of the unknown pixels under two mixtures of colours, fitted to what is nearest to each.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with foreground, background and unknown pixels. Returns
    float32 (H, W) of zeros and ones. The mixtures come from a sample of the whole image, since a crop changes them and
    ruins the cut. Of more than ``FITTED_ONCE`` unknown pixels the outline is first cut at half the size, and the
    mixtures are fitted again to what lies on its sides. More than ``MAX_UNKNOWN`` pixels are first cut at half the
    size, and then only along that outline. The same bytes each time, in any thread: OpenCV's generator (one per thread)
    is seeded here. Raises SolverError where one of the two kinds of known pixels is missing, or OpenCV fails.

    Rother, Kolmogorov, Blake, SIGGRAPH 2004 (by OpenCV).
    """
    foreground, unknown = trimap == FOREGROUND, trimap == UNKNOWN
    if not foreground.any() or not (trimap == BACKGROUND).any():
        raise SolverError("GrabCut learns the colours of known foreground and background; the trimap lacks one of them")
    if not unknown.any():
        return foreground.astype(np.float32)
    start = nearest_known(trimap)
    probable = np.where(unknown, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    labels = probable + start  # a foreground is one more
    try:
        mixtures = _fit(image, start)
        if np.count_nonzero(unknown) > FITTED_ONCE:
            half = labels[::2, ::2].copy()
            _cut(image[::2, ::2], half, mixtures)
            start = np.where(unknown, _doubled(_inside(half), unknown.shape), start)
            labels, mixtures = probable + start, _fit(image, start)
        _cut(image, labels, mixtures)
    except cv2.error as error:
        raise SolverError(f"OpenCV's GrabCut failed ({first_line(error)}); use another refiner") from error
    return _inside(labels).astype(np.float32)


def _fit(image: Image, start: Mask) -> Mixtures:
    samples = [_sample(image, ~start), _sample(image, start)]
    # A row of colours, all of which OpenCV takes for known: what it cuts there is of no account.
    labels = np.repeat(np.array([cv2.GC_BGD, cv2.GC_FGD], np.uint8), [len(each) for each in samples])[None]
    background, foreground = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.concatenate(samples)[None], labels, None, background, foreground, 1, cv2.GC_INIT_WITH_MASK)
    return background, foreground


def _sample(image: Image, region: Mask) -> NDArray[np.uint8]:
    """The region's colours (N, 3): all, or ``MAX_SAMPLES``, one at random from each stretch of the raster."""
    pixels = np.flatnonzero(region)
    if len(pixels) > MAX_SAMPLES:
        steps = np.arange(MAX_SAMPLES) + np.random.default_rng(0).random(MAX_SAMPLES)
        pixels = pixels[(steps * (len(pixels) / MAX_SAMPLES)).astype(np.intp)]
    return image.reshape(-1, 3)[pixels]


def _cut(image: Image, labels: Labels, mixtures: Mixtures) -> None:
    """Decide the probable labels, in place."""
    unknown = labels >= cv2.GC_PR_BGD
    if np.count_nonzero(unknown) > MAX_UNKNOWN:
        # Every second pixel, not their mean: that would take the noise out of the colours.
        half = labels[::2, ::2].copy()
        _cut(image[::2, ::2], half, mixtures)
        settled = unknown & _doubled(_settled(half), unknown.shape)
        labels[settled] = _doubled(half, unknown.shape)[settled] - cv2.GC_PR_BGD
        unknown &= ~settled
    rows, columns = (np.flatnonzero(unknown.any(axis=axis)) for axis in (1, 0))
    for down, across in itertools.product(_spans(rows), _spans(columns)):
        if unknown[down, across].any():
            decided = labels[down, across].copy()
            pixels = np.ascontiguousarray(image[down, across])
            cv2.grabCut(pixels, decided, None, *mixtures, 1, cv2.GC_EVAL_FREEZE_MODEL)
            labels[down, across] = decided


def _spans(places: NDArray[np.intp]) -> list[slice]:
    """Spans of ``TILE`` from the first to the last of the places (n,), each with a neighbour on either side."""
    if not places.size:  # half the size has settled all
        return []
    ends = [*range(places[0], places[-1] + 1, TILE), places[-1] + 1]
    return [slice(max(0, start - 1), stop + 1) for start, stop in itertools.pairwise(ends)]


def _settled(labels: Labels) -> Mask:
    """Where a label was cut, and all within ``REACH`` are on its side."""
    levels, kernel = _inside(labels).view(np.uint8), np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
    return (labels >= cv2.GC_PR_BGD) & (cv2.dilate(levels, kernel) == cv2.erode(levels, kernel))


def _inside(labels: Labels) -> Mask:
    return labels % 2 == 1  # GC_FGD and GC_PR_FGD


def _doubled(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return values.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]
