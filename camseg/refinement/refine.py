"""(Image, Trimap) -> Alpha: the unknown band of a trimap decided from the image.

``refine`` raises where a refiner has nothing to learn from; ``refine_with_report`` falls back instead and says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from camseg.base.arrays import (
    BACKGROUND,
    FOREGROUND,
    UNKNOWN,
    Alpha,
    Cam,
    Colors,
    Image,
    Mask,
    Trimap,
    check_cam,
    check_image,
    check_mask,
    check_same_size,
    check_trimap,
)
from camseg.base.errors import (
    AllKnownError,
    EmptyBackgroundError,
    EmptyForegroundError,
    SolverError,
    TrimapError,
)
from camseg.base.files import contents_sha256, sha256
from camseg.refinement.choosing import clearest, flaw
from camseg.refinement.colors import estimate_colors
from camseg.refinement.nearest import nearest_known
from camseg.refinement.registry import AUTO, CANDIDATES, METHODS, check_refiner
from camseg.refinement.settings import RefineSettings

if TYPE_CHECKING:
    from camseg.refinement.fba import Fba
    from camseg.refinement.sam import Sam


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
    """Why no refiner decided (the error's ``reason``, or a flaw of the refined mask), or not everywhere (``drifted off
    in parts``); None when one did."""


def refine(
    image: Image,
    trimap: Trimap,
    method: str = RefineSettings.method,
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
    method: str = RefineSettings.method,
    mask: Mask | None = None,
    colors: bool = False,
    *,
    cam: Cam | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Refined:
    """``refine``, with a fallback instead of an error, and the object's colours on request.

    Where the trimap is unusable or the solver fails, alpha is ``mask`` (bool (H, W)) if there is one; else
    unknown pixels get the value of the nearest known region, and zero if nothing is known. With a mask the
    result is also compared with it: one that has a ``flaw`` is dropped for it, and ``auto`` keeps the mask where
    no refiner's outline is clearer. ``cam``: the map, float32 (H, W) in [0, 1], that the mask was cut from; a refiner
    that starts from the mask looks at its peaks. Raises InputError, CheckpointError.
    """
    check_inputs(image, trimap, method, weights)
    if mask is not None:
        check_same_size(image, check_mask(mask), "image and mask")
    if cam is not None:
        check_same_size(image, check_cam(cam), "image and map")
    decided: str | None = method
    foreground = background = fallback = partly = None
    try:
        check_usable(trimap)
        if method == AUTO:
            decided, alpha, fallback = _auto(image, trimap, mask)
        else:
            chosen = METHODS[method]
            if colors and chosen.gives_colors:
                alpha, foreground, background = _network(method, Path(str(weights)), device).matte(image, trimap)
            elif chosen.starts_from_mask:
                answered = _network(method, Path(str(weights)), device).segment(image, trimap, mask, cam)
                alpha = answered.alpha
                fallback = "drifted off" if answered.kept == answered.parts else None
                partly = "drifted off in parts" if answered.kept else None
            else:
                alpha = _refiner(method, weights, device)(image, trimap)
            if fallback is None and mask is not None:
                fallback = flaw(mask, alpha > 0.5)
    except (TrimapError, SolverError) as error:
        fallback = error.reason
    if fallback is not None:
        decided, foreground, background = None, None, None
        alpha = (nearest_known(trimap) if mask is None else mask).astype(np.float32)
    if colors and (foreground is None or background is None):
        foreground, background = estimate_colors(image, alpha)
    fallback = fallback or partly
    return Refined(alpha=alpha, method=decided, foreground=foreground, background=background, fallback=fallback)


def check_inputs(image: Image, trimap: Trimap, method: str, weights: str | Path | None) -> None:
    """Raise InputError for arrays, a method or weights that do not fit."""
    check_same_size(check_image(image), check_trimap(trimap), "image and trimap")
    check_refiner(method, weights)


def open_refiner(settings: RefineSettings, device: str) -> None:
    """Load a trained network before the first image needs it; raises CheckpointError. Others have nothing to load."""
    if settings.weights is not None:
        _network(settings.method, settings.weights, device)


def weights_hash(weights: Path) -> str:
    """The hash of a network's weights, in hexadecimal: of a file, or of the weights and settings in a folder.

    Raises InputError when a file cannot be read.
    """
    if not weights.is_dir():
        return sha256(weights)
    return contents_sha256(sorted(path for path in weights.iterdir() if path.suffix in (".json", ".safetensors")))


@cache
def warm_up(method: str, *, colors: bool = False) -> None:
    """Compile what a refiner runs, and ``estimate_colors`` where ``colors`` are wanted, before processes start.

    They then load it from numba's cache; otherwise each of them compiles it, for 10 to 50 seconds. Takes about a
    second where the cache is full already. Networks have nothing to compile. Raises InputError for unknown methods.
    """
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    trimap = np.full((16, 16), BACKGROUND, np.uint8)
    trimap[3:13, 3:13], trimap[6:10, 6:10] = UNKNOWN, FOREGROUND
    if method not in (name for name, refiner in METHODS.items() if refiner.needs_weights):
        refine(image, trimap, method)
    if colors:
        estimate_colors(image, (trimap / 255).astype(np.float32))


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


def _refiner(method: str, weights: str | Path | None, device: str) -> Callable[[Image, Trimap], Alpha]:
    refiner = METHODS[method]
    return _network(method, Path(str(weights)), device) if refiner.needs_weights else refiner.load()


@lru_cache(maxsize=1)
def _network(method: str, weights: Path, device: str) -> Any:
    """The network of the last call: a folder of images loads it once."""
    network: Fba | Sam = METHODS[method].load()(weights, device)
    return network


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
