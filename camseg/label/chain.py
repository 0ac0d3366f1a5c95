"""One image -> its map, mask, trimap and alpha: the stages one after the other, and what they hand each other."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from camseg.base.arrays import Alpha, Cam, Image, Mask, Trimap, dequantise, quantise
from camseg.base.errors import InputError
from camseg.base.workers import Call, call_here
from camseg.cams.capture import network
from camseg.cams.extract import extract, plan, stack_inputs, to_image_size
from camseg.classify.classifier import AnyClassifier
from camseg.label.settings import LabelSettings, TrimapSettings
from camseg.masks.cleaning import postprocess
from camseg.masks.threshold import cam_to_mask
from camseg.propagation.propagate import METHODS as PROPAGATORS
from camseg.propagation.propagate import propagate
from camseg.refinement.refine import Refined, refine_with_report
from camseg.refinement.trimaps import mask_to_trimap, masks_to_trimap, published_trimap, unusable


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What the chain made of one image and class."""

    cam: Cam
    """The map that was thresholded, after propagation."""
    mask: Mask
    """The final mask."""
    trimap: Trimap | None = None
    """The refiner's trimap, where one was made."""
    alpha: Alpha | None = None
    """The refiner's alpha, where one ran."""
    refiner: str | None = None
    """Which refiner decided; None where none did."""
    fallback: str | None = None
    """Why no refiner decided, if one was to."""


def label_image(
    image: Image,
    classifier: AnyClassifier,
    target: str | None = None,
    settings: LabelSettings | None = None,
) -> Labelled:
    """The whole chain for one image, uint8 (H, W, 3), and one class: by default the likeliest one.

    A negative class gives an all-zero map and mask. Raises InputError for other arrays, settings or classes.
    """
    settings = settings or LabelSettings()
    ready = plan(classifier, settings.cams(classifier))
    squares = ready.inputs(dict.fromkeys(ready.windows, image))

    def choose(_n: int, probabilities: NDArray[np.float32]) -> list[int]:
        return [int(probabilities.argmax()) if target is None else classifier.class_index(target)]

    grids = extract(ready, stack_inputs([squares]), choose).maps[settings.method][0][0]
    cam = to_image_size(classifier, grids, image.shape[0], image.shape[1], raw=False)
    features = None
    if needs_features(settings.propagation):
        features = classifier_features(classifier, squares[0], image.shape[:2])
    return label_map(image, cam, settings, str(classifier.device), features)


def label_map(
    image: Image,
    cam: Cam,
    settings: LabelSettings,
    device: str,
    features: NDArray[np.float32] | None = None,
    call: Call = call_here,
) -> Labelled:
    """The chain from a map on: propagation, threshold, trimap, refinement, post-processing.

    ``features``: float32 (C, h, w), for propagation that needs them; ``call`` runs the refiner, here or in a worker.
    """
    cam = dequantise(quantise(cam))
    if settings.propagation != "none":
        spread = propagate(
            image, cam, settings.propagation, settings=settings.propagation_settings, features=features, device=device
        )
        cam = dequantise(quantise(spread))
    mask = cam_to_mask(cam, settings.threshold)
    if settings.refiner == "none":
        return Labelled(cam=cam, mask=postprocess(mask, settings.postprocessing))
    trimap = make_trimap(mask, cam, settings.trimap)
    refined = call_refiner(call, image, trimap, settings.refiner, mask, weights=settings.refiner_weights, device=device)
    alpha = dequantise(quantise(refined.alpha))
    return Labelled(
        cam=cam,
        mask=postprocess(alpha > 0.5, settings.postprocessing),
        trimap=trimap,
        alpha=alpha,
        refiner=refined.method,
        fallback=refined.fallback,
    )


def call_refiner(
    call: Call,
    image: Image,
    trimap: Trimap,
    method: str,
    mask: Mask | None,
    *,
    colors: bool = False,
    weights: str | None = None,
    device: str = "cpu",
) -> Refined:
    """``refine_with_report`` through ``call``, with the more telling reason where the trimap is to blame.

    A trained network stays in this process: its weights are loaded once, and there may be one device only.
    """
    run = call if weights is None else call_here
    refined = run(partial(refine_with_report, weights=weights, device=device), image, trimap, method, mask, colors)
    return replace(refined, fallback=refined.fallback and (unusable(trimap) or refined.fallback))


def classifier_features(classifier: AnyClassifier, square: Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """What the classifier sees where in an image: its finer stage's activations, float32 (C, h, w).

    Of an ensemble it is what the first member sees. ``square``: the image as that one's ``to_input`` gives it;
    ``size``: (H, W) of the image, whose part is returned.
    """
    first = classifier.members[0]
    inputs = first.normalise(torch.from_numpy(square)[None])
    maps = network(first, layers="stages").forward(inputs, gradients=False).maps[0][0]  # (C, h, w)
    sides = maps.shape[1:]
    top, left, tall, wide = first.content_box(*size)
    rows, columns = (
        slice(round(start * side), max(round((start + length) * side), round(start * side) + 1))
        for start, length, side in ((top, tall, sides[0]), (left, wide, sides[1]))
    )
    return maps[:, rows, columns].cpu().numpy()


def needs_features(propagation: str) -> bool:
    """Whether a propagator walks over the classifier's features."""
    return propagation != "none" and PROPAGATORS[propagation].guide == "features"


def make_trimap(mask: Mask | None, cam: Cam | None, settings: TrimapSettings) -> Trimap:
    """A trimap from a mask by morphology, with what a map is sure of, or from a map by the settings' two thresholds."""
    if settings.low is not None and settings.high is not None:
        if cam is None:
            raise InputError("two thresholds cut a trimap from a map; a mask has none")
        return masks_to_trimap(cam_to_mask(cam, settings.high), cam_to_mask(cam, settings.low))
    if mask is None:
        raise InputError("morphology makes a trimap from a mask; give one, or a low and a high threshold")
    if settings.recipe == "published":
        return published_trimap(mask)
    sure = None if cam is None or settings.sure is None else cam_to_mask(cam, settings.sure)
    return mask_to_trimap(
        mask, open=settings.open, close=settings.close, dilate=settings.dilate, erode=settings.erode, sure=sure
    )
