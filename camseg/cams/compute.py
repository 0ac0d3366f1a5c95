"""Images -> class activation maps, in memory: the way in for Python."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Image, Mask
from camseg.base.errors import InputError
from camseg.cams.capture import Network
from camseg.cams.extract import BatchLimit, Choose, extract, stack_inputs
from camseg.cams.layers import find_guide
from camseg.cams.placing import features_over_image, to_image_size
from camseg.cams.plan import plan
from camseg.cams.predict import Views, view
from camseg.cams.scores import Decider
from camseg.cams.settings import CamSettings, PixelScore, Precision, Score, Weighed


def compute_cams(
    classifier: Decider,
    images: Sequence[Views],
    targets: Sequence[str | Sequence[str]] | None = None,
    methods: str | Sequence[str] = CamSettings.methods,
    *,
    scales: Sequence[float] | Weighed = (1.0,),
    flip: bool = False,
    score: Score | PixelScore | Literal["auto"] = CamSettings.score,
    layer: str | Sequence[str] = CamSettings.layers,
    score_channels: int | None = CamSettings.score_channels,
    precision: Precision = CamSettings.precision,
    raw: bool = CamSettings.raw,
    gate: bool = CamSettings.gate,
    masks: Sequence[Mask | Mapping[str, Mask]] | None = None,
    batch_size: int = 16,
) -> dict[str, list[Any]]:
    """Class activation maps of images, for any number of methods from the same passes of the network.

    ``images``: uint8 (H, W, 3) RGB, of any sizes; for an ensemble whose members read files in several windows,
    {window: image} each. ``targets``: a class name per image, or a list of names, which gives {class: map}; None takes
    the predicted class (multi-label: a dict of every class with a probability of at least 0.5). The settings are those
    of ``CamSettings``. The map of an ensemble is the weighted mean of its members' maps.

    Of a segmenter the maps show what it looked at for its answer: its logits of the class, as ``score`` says (``mean``,
    ``predicted`` or ``mask``), are what gradients are taken of. ``masks``: for ``mask``, of each image bool (H, W), or
    {class: mask}. Where no pixel counts, the map is all zero.

    Returns, per method and in the order of the images, float32 (H, W) in [0, 1]; with ``raw`` >= 0,
    after the ReLU and before any scaling.

    Raises InputError when targets and images differ in number, for an unknown method or class, or an image that lacks
    a member's window; LayerError when the layer gives no map.
    """
    settings = CamSettings(
        methods=(methods,) if isinstance(methods, str) else tuple(methods),
        scales=scales if isinstance(scales, str) else tuple(scales),
        flip=flip,
        score=score,
        layers=(layer,) if isinstance(layer, str) else tuple(layer),
        score_channels=score_channels,
        precision=precision,
        raw=raw,
        gate=gate,
    )
    return compute_by_settings(classifier, images, settings, targets, masks=masks, batch_size=batch_size)


def compute_by_settings(
    classifier: Decider,
    images: Sequence[Views],
    settings: CamSettings,
    targets: Sequence[str | Sequence[str]] | None = None,
    *,
    masks: Sequence[Mask | Mapping[str, Mask]] | None = None,
    batch_size: int = 16,
) -> dict[str, list[Any]]:
    """``compute_cams`` with settings that are at hand as such."""
    if targets is not None and (isinstance(targets, str) or len(targets) != len(images)):
        raise InputError(f"expected one target per image: {len(images)} images, targets {targets!r}")
    if batch_size < 1:
        raise InputError(f"expected a batch size of at least 1, got {batch_size}")
    if (masks is not None) != (settings.score == "mask"):
        raise InputError("masks and the score mask go together: give both, or neither")
    if masks is not None and len(masks) != len(images):
        raise InputError(f"expected one mask per image: {len(images)} images, {len(masks)} masks")
    ready, limit = plan(classifier, settings), BatchLimit()
    results: dict[str, list[Any]] = {name: [] for name in settings.methods}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        wanted = None if targets is None else targets[start : start + batch_size]
        as_dicts = [classifier.several if wanted is None else not isinstance(wanted[i], str) for i in range(len(batch))]
        views = [{window: view(image, window) for window in ready.windows} for image in batch]
        given = [None] * len(batch) if masks is None else masks[start : start + batch_size]
        regions = [_regions(classifier, one, mask) for one, mask in zip(views, given, strict=True)]
        inputs = stack_inputs([ready.inputs(one, own) for one, own in zip(views, regions, strict=True)])
        found = extract(ready, inputs, _chooser(classifier, wanted), limit)
        for name, maps in found.maps.items():
            for one, row, grids, as_dict in zip(views, found.targets, maps, as_dicts, strict=True):
                height, width = one[classifier.window].shape[:2]
                cams = [to_image_size(classifier, grid, height, width, settings.raw) for grid in grids]
                names = [classifier.classes[target] for target in row]
                results[name].append(dict(zip(names, cams, strict=True)) if as_dict else cams[0])
    return results


def _regions(
    classifier: Decider, views: Mapping[str, Image], mask: Mask | Mapping[str, Mask] | None
) -> list[Mask] | None:
    """The mask of each class of one image, (H, W); InputError for one of another size, or a missing one."""
    if mask is None:
        return None
    shape = views[classifier.window].shape[:2]
    masks = [
        np.asarray(mask.get(name, np.zeros(shape, np.bool_)) if isinstance(mask, Mapping) else mask)
        for name in classifier.classes
    ]
    if wrong := [one for one in masks if one.dtype != np.bool_ or one.shape != shape]:
        raise InputError(f"expected masks bool {shape}, as their image is; got {wrong[0].dtype} {wrong[0].shape}")
    return masks


def _chooser(classifier: Decider, wanted: Sequence[str | Sequence[str]] | None) -> Choose:
    if wanted is None:
        return lambda _n, probabilities: classifier.predicted(probabilities[None])[0]
    rows: list[list[Any]] = [
        list(dict.fromkeys(row)) if isinstance(row, Iterable) and not isinstance(row, str) else [row] for row in wanted
    ]
    indices = [[classifier.class_index(name) for name in row] for row in rows]
    return lambda n, _probabilities: indices[n]


def classifier_features(classifier: Decider, image: Image) -> NDArray[np.float32]:
    """What a classifier sees where in an image, uint8 (H, W, 3): its finer stage's activations, float32 (C, h, w).

    Of an ensemble it is what the first member sees. ``propagate`` with ``random-walk`` walks on it.
    """
    first = classifier.members[0]
    guided = Network(classifier=first, layers=()).forward(
        first.preprocess([image]), gradients=False, guide=find_guide(first)
    )
    assert guided.guide is not None
    return features_over_image(classifier, guided.guide[0].cpu().numpy(), *image.shape[:2])
