"""(Image, Trimap) -> Alpha: the unknown band of a trimap decided from the image.

A refiner is one pure function in a file of its own and one line in ``METHODS``. ``refine`` raises where a
refiner has nothing to learn from; ``refine_with_report`` falls back instead and says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from camseg.base.arrays import (
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
from camseg.base.errors import (
    AllKnownError,
    EmptyBackgroundError,
    EmptyForegroundError,
    InputError,
    SolverError,
    TrimapError,
)
from camseg.refinement.choosing import clearest, flaw
from camseg.refinement.closed_form import closed_form
from camseg.refinement.colors import estimate_colors
from camseg.refinement.grabcut import grabcut
from camseg.refinement.laplacians import knn, large_kernel, learning_based, random_walk_matting, random_walker
from camseg.refinement.nearest import nearest_known

if TYPE_CHECKING:
    from camseg.refinement.fba import Fba

Refiner: TypeAlias = Callable[[Image, Trimap], Alpha]
"""Decides the unknown pixels of a trimap that also has foreground and background."""

AUTO: Final = "auto"
"""The choice among ``CANDIDATES`` and the mask, image by image."""
CANDIDATES: Final = ("closed-form", "grabcut")
"""What ``auto`` chooses from."""


@dataclass(frozen=True)
class Method:
    """A refiner and where it comes from."""

    refine: Refiner | None
    """The pure function; None for a trained network."""
    paper: str = field(kw_only=True)
    """Authors, title, venue."""
    load: Callable[[Path, str], "Fba"] | None = field(default=None, kw_only=True)
    """For a trained network: (file of its weights, device) -> what refines."""


def _load_fba(weights: Path, device: str) -> "Fba":
    from camseg.refinement.fba import load_fba  # loads torch, which the others do without

    return load_fba(weights, device)


METHODS: Final[Mapping[str, Method]] = {
    "closed-form": Method(
        closed_form, paper="Levin, Lischinski, Weiss: A Closed-Form Solution to Natural Image Matting, PAMI 2008"
    ),
    "grabcut": Method(
        grabcut, paper="Rother, Kolmogorov, Blake: GrabCut: Interactive Foreground Extraction, SIGGRAPH 2004"
    ),
    "random-walker": Method(random_walker, paper="Grady: Random Walks for Image Segmentation, PAMI 2006"),
    "knn": Method(knn, paper="Chen, Li, Tang: KNN Matting, CVPR 2012"),
    "lkm": Method(
        large_kernel, paper="He, Sun, Tang: Fast Matting Using Large Kernel Matting Laplacian Matrices, CVPR 2010"
    ),
    "lbdm": Method(learning_based, paper="Zheng, Kambhamettu: Learning Based Digital Matting, ICCV 2009"),
    "rw": Method(random_walk_matting, paper="Grady et al.: Random Walks for Interactive Alpha-Matting, VIIP 2005"),
    "fba": Method(None, load=_load_fba, paper="Forte, Pitie: F, B, Alpha Matting, arXiv:2003.07711, 2020"),
}


@dataclass(frozen=True, kw_only=True)
class Refined:
    """What became of one image and its trimap."""

    alpha: Alpha
    """(H, W), [0, 1]; the refined mask is alpha > 0.5."""
    method: str | None
    """The refiner that decided; None where none did."""
    foreground: Colors | None = None
    """(H, W, 3), [0, 1]: the object's colours, if they were asked for."""
    background: Colors | None = None
    """(H, W, 3), [0, 1]: the colours behind it, if they were asked for."""
    fallback: str | None = None
    """Why no refiner decided (the error's ``reason``, or a flaw of the refined mask); None when one did."""


def refine(
    image: Image,
    trimap: Trimap,
    method: str = "closed-form",
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Alpha:
    """The share of foreground in each pixel: known pixels as the trimap says, unknown ones by a refiner.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) in {0, 128, 255}; ``method``: a key of ``METHODS``, or
    ``auto``, the one of ``CANDIDATES`` whose mask has the clearest outline; ``weights`` and ``device``: for a
    trained network. Returns float32 (H, W) in [0, 1]. Raises InputError; EmptyForegroundError, EmptyBackgroundError
    or AllKnownError for a trimap from which nothing can be learnt; SolverError; CheckpointError for weights.
    """
    check_inputs(image, trimap, method, weights)
    check_usable(trimap)
    if method == AUTO:
        return _auto(image, trimap, None)[1]
    return _refiner(method, weights, device)(image, trimap)


def refine_with_report(
    image: Image,
    trimap: Trimap,
    method: str = "closed-form",
    mask: Mask | None = None,
    colors: bool = False,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Refined:
    """``refine``, with a fallback instead of an error, and the object's colours on request.

    Where the trimap is unusable or the solver fails, alpha is ``mask`` (bool (H, W)) if there is one; else
    unknown pixels get the value of the nearest known region, and zero if nothing is known. With a mask the
    result is also compared with it: one that has a ``flaw`` is dropped for it, and ``auto`` keeps the mask where
    no refiner's outline is clearer. Raises InputError, CheckpointError.
    """
    check_inputs(image, trimap, method, weights)
    if mask is not None:
        check_same_size(image, check_mask(mask), "image and mask")
    decided: str | None = method
    foreground = background = fallback = None
    try:
        check_usable(trimap)
        if method == AUTO:
            decided, alpha, fallback = _auto(image, trimap, mask)
        else:
            if colors and METHODS[method].load is not None:
                alpha, foreground, background = _network(method, Path(str(weights)), device).matte(image, trimap)
            else:
                alpha = _refiner(method, weights, device)(image, trimap)
            fallback = None if mask is None else flaw(mask, alpha > 0.5)
    except (TrimapError, SolverError) as error:
        fallback = error.reason
    if fallback is not None:
        decided, foreground, background = None, None, None
        alpha = (nearest_known(trimap) if mask is None else mask).astype(np.float32)
    if colors and (foreground is None or background is None):
        foreground, background = estimate_colors(image, alpha)
    return Refined(alpha=alpha, method=decided, foreground=foreground, background=background, fallback=fallback)


def check_inputs(image: Image, trimap: Trimap, method: str, weights: str | Path | None) -> None:
    """Raise InputError for arrays, a method or weights that do not fit."""
    check_same_size(check_image(image), check_trimap(trimap), "image and trimap")
    check_method(method, weights)


def check_method(method: str, weights: str | Path | None) -> None:
    """Raise InputError for an unknown refiner, a network without weights, or weights for what needs none."""
    if method != AUTO and method not in METHODS:
        raise InputError(f"unknown refiner {method!r}; choose among {', '.join((AUTO, *METHODS))}")
    needed = method != AUTO and METHODS[method].load is not None
    if needed and weights is None:
        raise InputError(
            f"{method} is a trained network and comes without weights: pass --weights FILE (weights=FILE in Python) "
            "with the published ones, which are for non-commercial use; closed-form needs none"
        )
    if weights is not None and not needed:
        raise InputError(f"{method} takes no weights; leave them out, or choose fba")


def open_network(method: str, weights: str | Path | None, device: str) -> None:
    """Load a trained network before the first image needs it; raises CheckpointError. Others have nothing to load."""
    check_method(method, weights)
    if weights is not None:
        _network(method, Path(weights), device)


def check_usable(trimap: Trimap) -> None:
    """Raise EmptyForegroundError, EmptyBackgroundError or AllKnownError where a refiner could learn nothing."""
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


def _refiner(method: str, weights: str | Path | None, device: str) -> Refiner:
    refiner = METHODS[method].refine
    return _network(method, Path(str(weights)), device) if refiner is None else refiner


@lru_cache(maxsize=1)
def _network(method: str, weights: Path, device: str) -> "Fba":
    """The network of the last call: a folder of images loads it once."""
    load = METHODS[method].load
    assert load is not None
    return load(weights, device)


def _auto(image: Image, trimap: Trimap, mask: Mask | None) -> tuple[str | None, Alpha, str | None]:
    """The candidate with the clearest outline, its alpha, None; or None, nothing, and why the mask is to be kept."""
    alphas: dict[str, Alpha] = {}
    for name in CANDIDATES:
        try:
            alphas[name] = _refiner(name, None, "cpu")(image, trimap)
        except SolverError as error:
            failure = error
    if not alphas:
        raise failure
    refined = {name: alpha > 0.5 for name, alpha in alphas.items()}
    flaws = {name: None if mask is None else flaw(mask, after) for name, after in refined.items()}
    sound = {name: after for name, after in refined.items() if flaws[name] is None}
    if not sound:
        return None, _NOTHING, next(iter(flaws.values()))
    chosen = clearest(image, sound, mask)
    return (chosen, alphas[chosen], None) if chosen else (None, _NOTHING, "no clearer outline")


_NOTHING: Final = np.empty((0, 0), np.float32)
