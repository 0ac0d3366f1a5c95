"""(Image, Trimap) -> Alpha: the unknown band of a trimap decided from the image.

A refiner is one pure function in a file of its own and one line in ``METHODS``. ``refine`` raises where a
refiner has nothing to learn from; ``refine_with_report`` falls back instead and says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from camseg.arrays import (
    BACKGROUND,
    FOREGROUND,
    UNKNOWN,
    Alpha,
    Colors,
    Image,
    Mask,
    Trimap,
    check_image,
    check_mask,
    check_same_size,
    check_trimap,
)
from camseg.errors import (
    AllKnownError,
    EmptyBackgroundError,
    EmptyForegroundError,
    InputError,
    SolverError,
    TrimapError,
)
from camseg.refinement.closed_form import closed_form
from camseg.refinement.colors import estimate_colors
from camseg.refinement.grabcut import grabcut
from camseg.refinement.nearest import nearest_known


@dataclass(frozen=True)
class Method:
    """A refiner and where it comes from."""

    refine: Callable[[Image, Trimap], Alpha]
    """The pure function; its trimap holds foreground, background and unknown pixels."""
    paper: str = field(kw_only=True)
    """Authors, title, venue."""


METHODS = {
    "closed-form": Method(
        closed_form, paper="Levin, Lischinski, Weiss: A Closed-Form Solution to Natural Image Matting, PAMI 2008"
    ),
    "grabcut": Method(
        grabcut, paper="Rother, Kolmogorov, Blake: GrabCut: Interactive Foreground Extraction, SIGGRAPH 2004"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Refined:
    """What became of one image and its trimap."""

    alpha: Alpha
    """(H, W), [0, 1]; the refined mask is alpha > 0.5."""
    foreground: Colors | None = None
    """(H, W, 3), [0, 1]: the object's colours, if they were asked for."""
    background: Colors | None = None
    """(H, W, 3), [0, 1]: the colours behind it, if they were asked for."""
    fallback: str | None = None
    """Why no refiner decided (the error's ``reason``); None when one did."""


def refine(image: Image, trimap: Trimap, method: str = "closed-form") -> Alpha:
    """The share of foreground in each pixel: known pixels as the trimap says, unknown ones by a refiner.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) in {0, 128, 255}; ``method``: a key of ``METHODS``.
    Returns float32 (H, W) in [0, 1]. Raises InputError; EmptyForegroundError, EmptyBackgroundError or
    AllKnownError for a trimap from which nothing can be learnt; SolverError.
    """
    check_same_size(check_image(image), check_trimap(trimap), "image and trimap")
    if method not in METHODS:
        raise InputError(f"no refiner is called {method!r}; choose one of {', '.join(METHODS)}")
    if not (trimap == FOREGROUND).any():
        raise EmptyForegroundError(
            "the trimap has no foreground (255) to learn from; erode less, or fall back to the mask"
        )
    if not (trimap == BACKGROUND).any():
        raise EmptyBackgroundError(
            "the trimap has no background (0) to learn from; dilate less, or fall back to the mask"
        )
    if not (trimap == UNKNOWN).any():
        raise AllKnownError(
            "the trimap has no unknown pixel (128) to decide; erode or dilate more, or take it as it is"
        )
    return METHODS[method].refine(image, trimap)


def refine_with_report(
    image: Image, trimap: Trimap, method: str = "closed-form", mask: Mask | None = None, colors: bool = False
) -> Refined:
    """``refine``, with a fallback instead of an error, and the object's colours on request.

    Where the trimap is unusable or the solver fails, alpha is ``mask`` (bool (H, W)) if there is one; else
    unknown pixels get the value of the nearest known region, and zero if nothing is known. Raises InputError.
    """
    if mask is not None:
        check_same_size(check_image(image), check_mask(mask), "image and mask")
    fallback = None
    try:
        alpha = refine(image, trimap, method)
    except (TrimapError, SolverError) as error:
        fallback = error.reason
        alpha = (nearest_known(trimap) if mask is None else mask).astype(np.float32)
    foreground, background = estimate_colors(image, alpha) if colors else (None, None)
    return Refined(alpha=alpha, foreground=foreground, background=background, fallback=fallback)
