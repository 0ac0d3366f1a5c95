"""The stages joined: one image (``label_image``) and folders of them (``label_folder`` and its parts).

Between two stages a map is always the 8-bit map that a file would hold, so that ``label`` gives byte for
byte what the single commands give one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from camseg.activations import Precision, Score, network
from camseg.arrays import Alpha, Cam, Image, Mask, Trimap, dequantise, quantise
from camseg.cams import METHODS as CAM_METHODS
from camseg.cams import BatchLimit, CamSettings, Grids, Plan, extract, plan, stack_inputs, to_image_size
from camseg.cams.scales import Scales
from camseg.classifier import AnyClassifier
from camseg.datasets import Dataset, Sample, load_images
from camseg.errors import InputError
from camseg.figures import overlay_mask
from camseg.files import sha256
from camseg.folders import FolderOptions, Report, Steps, run_folder
from camseg.images import read_image, write_cam, write_image, write_mask, write_raw
from camseg.masks import cam_to_mask, parse_threshold
from camseg.postprocessing import PostprocessingSettings, postprocess
from camseg.propagation import METHODS as PROPAGATORS
from camseg.propagation import Settings as PropagationSettings
from camseg.propagation import check_settings, propagate
from camseg.refinement import AUTO, Refined, check_method, open_network, refine_with_report
from camseg.refinement import METHODS as REFINERS
from camseg.results import Record
from camseg.targets import TargetRule, target_rule
from camseg.trimaps import mask_to_trimap, masks_to_trimap, parse_radius, published_trimap, unusable
from camseg.workers import Call, call_here, worker_processes

_KEPT_PIXELS = 4_000_000
"""Larger images are not kept while they wait for the network, but read again for the later stages."""


@dataclass(frozen=True, kw_only=True)
class TrimapSettings:
    """The unknown band of a trimap; radii in pixels (``5``) or in percent of the object's width (``10%``)."""

    recipe: Literal["fitted", "published"] = "fitted"
    """``published``: that of Laptev and Gerget as it stands, which has no other settings."""
    open: str = "0"
    """Opening: what is thinner than twice this becomes unknown."""
    close: str = "0"
    """Closing: fills what is narrower than twice this."""
    dilate: str = "20%"
    """How far the band reaches out of the mask."""
    erode: str = "20%"
    """How far it reaches into the mask."""
    sure: str | None = "max:0.85"
    """Where a map is at hand: what of the mask lies above this threshold is foreground however much is eroded."""
    low: str | None = None
    """With ``high``: cut the trimap from the map at two thresholds instead; below this is background."""
    high: str | None = None
    """Above this is foreground."""

    def __post_init__(self) -> None:
        if self.recipe not in ("fitted", "published"):
            raise InputError(f"expected the trimap recipe fitted or published, got {self.recipe!r}")
        fitted = [self.open, self.close, self.dilate, self.erode, self.sure, self.low, self.high]
        defaults = [type(self).open, type(self).close, type(self).dilate, type(self).erode, type(self).sure, None, None]
        if self.recipe == "published" and fitted != defaults:
            raise InputError("the published trimap recipe has its own radii; leave the others and thresholds out")
        for text in (self.open, self.close, self.dilate, self.erode):
            parse_radius(text)
        if self.sure is not None:
            parse_threshold(self.sure)
        if (self.low is None) != (self.high is None):
            raise InputError("a trimap from two thresholds needs both, a low and a high one")
        if self.low is not None and self.high is not None:
            low, high = parse_threshold(self.low), parse_threshold(self.high)
            # Of an area the larger share is the lower threshold.
            ordered = low.value >= high.value if low.kind == "area" else low.value <= high.value
            if low.kind == high.kind and not ordered:
                raise InputError(f"expected a low threshold below the high one; got {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """The chain from an image to its mask; the defaults are the best on average in the results table."""

    scales: Scales = "auto"
    """As in CamSettings."""
    flip: bool = True
    """As in CamSettings."""
    method: str = "layercam"
    """A CAM method."""
    score: Score | Literal["auto"] = "auto"
    """``class``, ``margin``, or ``auto``: margin where the classifier has a negative class."""
    layers: tuple[str, ...] = ("stages",)
    """As in CamSettings."""
    precision: Precision = "float32"
    """As in CamSettings."""
    propagation: str = "par"
    """A propagator, or ``none``."""
    propagation_settings: PropagationSettings | None = None
    """The propagator's own settings, if not its defaults."""
    threshold: str = "max:0.7"
    """A threshold in the grammar of masks."""
    trimap: TrimapSettings = field(default_factory=TrimapSettings)
    """How the refiner's trimap is made."""
    refiner: str = "auto"
    """A refiner, ``auto`` or ``none``."""
    refiner_weights: str | None = None
    """The file of a trained refiner's weights."""
    postprocessing: PostprocessingSettings = field(default_factory=PostprocessingSettings)
    """What is done to the final mask."""

    def __post_init__(self) -> None:
        parse_threshold(self.threshold)
        check_choice("CAM method", self.method, CAM_METHODS)
        check_choice("propagation", self.propagation, {**PROPAGATORS, "none": None})
        if self.propagation_settings is not None:
            check_settings(self.propagation, self.propagation_settings)
        check_choice("refiner", self.refiner, {AUTO: None, **REFINERS, "none": None})
        if self.refiner != "none":
            check_method(self.refiner, self.refiner_weights)
        elif self.refiner_weights is not None:
            raise InputError("weights for a refiner, but no refiner; choose fba, or leave them out")
        if self.score not in ("auto", "class", "margin"):
            raise InputError(f"expected score auto, class or margin, got {self.score!r}")

    def cams(self, classifier: AnyClassifier) -> CamSettings:
        """The settings of the map's extraction with this classifier."""
        score: Score = "margin" if classifier.negative else "class"
        if self.score != "auto":
            score = self.score
        return CamSettings(
            methods=(self.method,),
            scales=self.scales,
            flip=self.flip,
            score=score,
            layers=self.layers,
            precision=self.precision,
        )


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


KINDS = ("cams", "trimaps", "alphas", "overlays")
"""What ``label`` writes beside masks on request."""


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


@dataclass(frozen=True, eq=False)
class _Loaded:
    squares: list[Image]
    size: tuple[int, int]
    image: Image | None


@dataclass(frozen=True, eq=False)
class _Inferred:
    maps: dict[str, list[Grids]]
    """Per method the fused maps of each target."""
    features: NDArray[np.float32] | None
    """(C, h, w), where the propagation needs them."""
    targets: list[int]
    probabilities: NDArray[np.float32]
    """(classes,)"""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One image and class, ready for the stages behind the network."""

    name: str
    """The outputs' name, without kind and suffix."""
    image: Callable[[], Image]
    """Gives the image, which is read again where it was too large to keep."""
    cam: Callable[[str], Cam]
    """Gives a method's map at the image's size."""
    features: NDArray[np.float32] | None
    """As in ``_Inferred``."""


_Finish: TypeAlias = Callable[[_Found], Record]
"""Writes the files; returns them and further facts, for the manifest."""


def label_folder(
    images: Dataset | Path | str,
    classifier: AnyClassifier,
    out: Path | str,
    settings: LabelSettings | None = None,
    *,
    targets: Sequence[str] = (),
    save: Sequence[str] = (),
    batch_size: int = 16,
    options: FolderOptions | None = None,
) -> Report:
    """Label every image of a folder or CSV into ``out/masks``, and on request ``cams``, ``trimaps``, ...

    ``images`` is read by ``datasets.load_images`` where it is no Dataset yet.
    Continues an interrupted run with equal settings. An image that fails is reported and listed in the
    manifest; the others are finished. Raises OutputError or InputError before any work starts.
    """
    settings = settings or LabelSettings()
    for kind in save:
        if kind not in KINDS:
            raise InputError(f"cannot save {kind!r}; choose among {', '.join(KINDS)}")
        if kind in ("trimaps", "alphas") and settings.refiner == "none":
            raise InputError(f"without a refiner there are no {kind}; choose one of {', '.join(REFINERS)}")
    images, folder = _dataset(images, classifier), Path(out)

    options = options or FolderOptions()
    device = str(classifier.device)

    def finish(found: _Found, call: Call) -> Record:
        image = found.image()
        labelled = label_map(image, found.cam(settings.method), settings, device, found.features, call)
        files = {"mask": f"masks/{found.name}.png"}
        write_mask(folder / files["mask"], labelled.mask)
        if "cams" in save:
            files["cam"] = f"cams/{found.name}.png"
            write_cam(folder / files["cam"], labelled.cam)
        if "trimaps" in save and labelled.trimap is not None:
            files["trimap"] = f"trimaps/{found.name}.png"
            write_image(folder / files["trimap"], labelled.trimap)
        if "alphas" in save and labelled.alpha is not None:
            files["alpha"] = f"alphas/{found.name}.png"
            write_cam(folder / files["alpha"], labelled.alpha)
        if "overlays" in save:
            files["overlay"] = f"overlays/{found.name}.png"
            write_image(folder / files["overlay"], overlay_mask(image, labelled.mask))
        area = int(np.count_nonzero(labelled.mask))
        refiner = labelled.refiner or settings.refiner
        return {"files": files, "area": area, "refiner": refiner, "fallback": labelled.fallback}

    # A threshold file or a network's weights may change under its name: what it says decides too.
    rules = [[rule.kind, rule.value] for rule in map(parse_threshold, _thresholds(settings))]
    weights = None if settings.refiner_weights is None else sha256(settings.refiner_weights)
    decisive = {**asdict(settings), "rules": rules, "weights": weights, "save": sorted(save)}
    if settings.refiner != "none":
        open_network(settings.refiner, settings.refiner_weights, device)
    with worker_processes() as call:
        return _NetworkFolder(
            plan=plan(classifier, settings.cams(classifier)),
            limit=BatchLimit(options.say),
            rule=target_rule(targets, classifier, images.samples),
            features=needs_features(settings.propagation),
            finish=partial(finish, call=call),
            facts={"propagation": settings.propagation, "threshold": settings.threshold},
        ).process("label", images, folder, decisive, targets, batch_size, options)


def cams_folder(
    images: Dataset | Path | str,
    classifier: AnyClassifier,
    out: Path | str,
    settings: CamSettings,
    *,
    targets: Sequence[str] = (),
    batch_size: int = 16,
    options: FolderOptions | None = None,
) -> Report:
    """Write the maps of every image into ``out/<method>/...``; otherwise as ``label_folder``."""
    images, folder = _dataset(images, classifier), Path(out)
    suffix, write = (".tif", write_raw) if settings.raw else (".png", write_cam)

    def finish(found: _Found) -> Record:
        files = {method: f"{method}/{found.name}{suffix}" for method in settings.methods}
        for method, file in files.items():
            write(folder / file, found.cam(method))
        return {"files": files}

    return _NetworkFolder(
        plan=plan(classifier, settings),
        limit=BatchLimit((options or FolderOptions()).say),
        rule=target_rule(targets, classifier, images.samples),
        features=False,
        finish=finish,
        facts={},
    ).process("cams", images, folder, asdict(settings), targets, batch_size, options)


@dataclass(frozen=True, kw_only=True)
class _NetworkFolder:
    """The steps of a command that runs the network over a folder."""

    plan: Plan
    limit: BatchLimit
    rule: TargetRule
    features: bool
    finish: _Finish
    facts: Record

    @property
    def classifier(self) -> AnyClassifier:
        return self.plan.classifier

    def process(
        self,
        command: str,
        images: Dataset,
        out: Path,
        settings: Record,
        targets: Sequence[str],
        batch_size: int,
        options: FolderOptions | None,
    ) -> Report:
        if batch_size < 1:
            raise InputError(f"expected a batch size of at least 1, got {batch_size}")
        cams = self.plan.settings
        # What the methods are, and all else that decides bytes, batch size and device included.
        decisive = {
            **settings,
            "methods": cams.methods,
            "score": cams.score,
            "layers": [member.network.layers for member in self.plan.members],
            "scales": [member.scales for member in self.plan.members],
            "weighed": cams.scales == "auto",
            "images": str(images.root.resolve()),
            "targets": list(targets),
            "negative": self.classifier.negative,
            "classifier": self.classifier.fingerprint(),
            "batch_size": batch_size,
            "device": self.classifier.device.type,
        }
        loop = Steps(read=self.read, infer=self.infer, write=self.write)
        return run_folder(command, images, out, decisive, loop, batch_size, options)

    def read(self, sample: Sample) -> _Loaded:
        views = {window: read_image(sample.path, window) for window in self.plan.windows}
        image = views[self.classifier.window]
        kept = image if image.shape[0] * image.shape[1] <= _KEPT_PIXELS else None
        return _Loaded(squares=self.plan.inputs(views), size=image.shape[:2], image=kept)

    def infer(self, samples: Sequence[Sample], loaded: Sequence[_Loaded | None]) -> list[_Inferred]:
        blank = dict.fromkeys(self.plan.windows, np.zeros((1, 1, 3), np.uint8))

        def choose(n: int, probabilities: NDArray[np.float32]) -> Sequence[int]:
            return [] if loaded[n] is None else self.rule.targets(self.classifier, samples[n], probabilities)

        inputs = stack_inputs([self.plan.inputs(blank) if one is None else one.squares for one in loaded])
        found = extract(self.plan, inputs, choose, self.limit)
        return [
            _Inferred(
                maps={method: maps[n] for method, maps in found.maps.items()},
                features=classifier_features(self.classifier, one.squares[0], one.size)
                if self.features and one
                else None,
                targets=list(found.targets[n]),
                probabilities=found.probabilities[n],
            )
            for n, one in enumerate(loaded)
        ]

    def write(self, sample: Sample, loaded: _Loaded, inferred: _Inferred) -> list[Record]:
        classifier = self.classifier
        if not np.isfinite(inferred.probabilities).all():
            raise InputError("the classifier's scores of it are not finite numbers; train it again")
        empty = self.rule.is_empty(classifier, sample)

        def image() -> Image:
            return loaded.image if loaded.image is not None else read_image(sample.path, classifier.window)

        # Without a folder per class an image without any class has a mask too, an empty one.
        targets: Sequence[int | None] = inferred.targets or ([] if self.rule.per_class else [None])
        records = []
        for k, target in enumerate(targets):

            def cam(method: str, k: int = k) -> Cam:
                if empty:
                    return np.zeros(loaded.size, np.float32)
                return to_image_size(classifier, inferred.maps[method][k], *loaded.size, self.plan.settings.raw)

            name = None if target is None else classifier.classes[target]
            score = None if target is None else round(float(inferred.probabilities[target]), 6)
            place = f"{name}/{sample.name}" if self.rule.per_class else sample.name
            done = self.finish(_Found(name=place, image=image, cam=cam, features=inferred.features))
            records.append(self._record(sample, name, score) | done)
        return records or [self._record(sample, None, None)]

    def _record(self, sample: Sample, name: str | None, score: float | None) -> Record:
        return {
            "input": sample.input,
            "name": sample.name,
            "labels": None if sample.labels is None else list(sample.labels),
            "class": name,
            "files": {},
            "score": score,
            "method": ",".join(self.plan.settings.methods),
            # Members' layers stand one after the other.
            "layer": ";".join(",".join(member.network.layers) for member in self.plan.members),
            "scales": sorted({scale for member in self.plan.members for scale in member.scales}),
            "propagation": None,
            "threshold": None,
            "refiner": None,
            "fallback": None,
            "area": None,
            "status": "ok",
            "error": None,
            **self.facts,
        }


def _dataset(images: Dataset | Path | str, classifier: AnyClassifier) -> Dataset:
    return images if isinstance(images, Dataset) else load_images(images, classifier.classes)


def _thresholds(settings: LabelSettings) -> list[str]:
    trimap = settings.trimap
    return [text for text in (settings.threshold, trimap.sure, trimap.low, trimap.high) if text is not None]


def check_choice(kind: str, name: str, choices: Mapping[str, object]) -> None:
    """Raise InputError, with the choices, for a name that is none of them."""
    if name not in choices:
        raise InputError(f"unknown {kind} {name!r}; choose among {', '.join(choices)}")
