"""The stages joined: one image (``label_image``) and folders of them (``label_folder`` and its parts).

Between two stages a map is always the 8-bit map that a file would hold, so that ``label`` gives byte for
byte what the single commands give one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camseg.activations import Precision, Score
from camseg.arrays import Alpha, Cam, Image, Mask, Trimap, dequantise, quantise
from camseg.cams import METHODS as CAM_METHODS
from camseg.cams import BatchLimit, CamSettings, Plan, extract, plan, stack_inputs, to_image_size
from camseg.cams.scales import Scales
from camseg.classifier import Classifier
from camseg.datasets import Dataset, Sample, load_images
from camseg.errors import InputError
from camseg.figures import overlay_mask
from camseg.folders import FolderOptions, Report, Steps, run_folder
from camseg.images import read_image, write_cam, write_image, write_mask, write_raw
from camseg.masks import cam_to_mask, parse_threshold
from camseg.propagation import METHODS as PROPAGATORS
from camseg.propagation import propagate
from camseg.refinement import METHODS as REFINERS
from camseg.refinement import refine_with_report
from camseg.results import (
    Record,
)
from camseg.targets import TargetRule, target_rule
from camseg.trimaps import mask_to_trimap, masks_to_trimap, parse_radius

_KEPT_PIXELS = 4_000_000
"""Larger images are not kept while they wait for the network, but read again for the later stages."""


@dataclass(frozen=True, kw_only=True)
class TrimapSettings:
    """The unknown band of a trimap; radii in pixels (``5``) or in percent of the object's size (``10%``)."""

    open: str = "0"
    """Opening: takes away what is thinner than twice this."""
    close: str = "0"
    """Closing: fills what is narrower than twice this."""
    dilate: str = "20%"
    """How far the band reaches out of the mask."""
    erode: str = "10%"
    """How far it reaches into the mask."""
    low: str | None = None
    """With ``high``: cut the trimap from the map at two thresholds instead; below this is background."""
    high: str | None = None
    """Above this is foreground."""

    def __post_init__(self) -> None:
        for text in (self.open, self.close, self.dilate, self.erode):
            parse_radius(text)
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
    threshold: str = "max:0.7"
    """A threshold in the grammar of masks."""
    trimap: TrimapSettings = field(default_factory=TrimapSettings)
    """How the refiner's trimap is made."""
    refiner: str = "none"
    """A refiner, or ``none``."""

    def __post_init__(self) -> None:
        parse_threshold(self.threshold)
        check_choice("CAM method", self.method, CAM_METHODS)
        check_choice("propagation", self.propagation, {**PROPAGATORS, "none": None})
        check_choice("refiner", self.refiner, {**REFINERS, "none": None})
        if self.score not in ("auto", "class", "margin"):
            raise InputError(f"expected score auto, class or margin, got {self.score!r}")

    def cams(self, classifier: Classifier) -> CamSettings:
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
    fallback: str | None = None
    """Why the refiner did not decide, if so."""


KINDS = ("cams", "trimaps", "alphas", "overlays")
"""What ``label`` writes beside masks on request."""


def label_image(
    image: Image,
    classifier: Classifier,
    target: str | None = None,
    settings: LabelSettings | None = None,
) -> Labelled:
    """The whole chain for one image, uint8 (H, W, 3), and one class: by default the likeliest one.

    A negative class gives an all-zero map and mask. Raises InputError for other arrays, settings or classes.
    """
    settings = settings or LabelSettings()
    ready = plan(classifier, settings.cams(classifier))
    inputs = stack_inputs([[classifier.to_input(image, scale) for scale in ready.input_scales]])

    def choose(_n: int, probabilities: NDArray[np.float32]) -> list[int]:
        return [int(probabilities.argmax()) if target is None else classifier.class_index(target)]

    grid = extract(ready, inputs, choose).maps[settings.method][0][0]
    return label_map(
        image, to_image_size(classifier, grid, image.shape[0], image.shape[1], raw=False), settings, classifier
    )


def label_map(image: Image, cam: Cam, settings: LabelSettings, classifier: Classifier) -> Labelled:
    """The chain from a map on: propagation, threshold, trimap, refinement."""
    cam = dequantise(quantise(cam))
    if settings.propagation != "none":
        spread = propagate(image, cam, settings.propagation, device=classifier.device)
        cam = dequantise(quantise(spread))
    mask = cam_to_mask(cam, settings.threshold)
    if settings.refiner == "none":
        return Labelled(cam=cam, mask=mask)
    trimap = make_trimap(mask, cam, settings.trimap)
    refined = refine_with_report(image, trimap, settings.refiner, mask)
    alpha = dequantise(quantise(refined.alpha))
    return Labelled(cam=cam, mask=alpha > 0.5, trimap=trimap, alpha=alpha, fallback=refined.fallback)


def make_trimap(mask: Mask | None, cam: Cam | None, settings: TrimapSettings) -> Trimap:
    """A trimap from a mask by morphology, or from a map by the settings' two thresholds."""
    if settings.low is not None and settings.high is not None:
        if cam is None:
            raise InputError("two thresholds cut a trimap from a map; a mask has none")
        return masks_to_trimap(cam_to_mask(cam, settings.high), cam_to_mask(cam, settings.low))
    if mask is None:
        raise InputError("morphology makes a trimap from a mask; give one, or a low and a high threshold")
    return mask_to_trimap(mask, open=settings.open, close=settings.close, dilate=settings.dilate, erode=settings.erode)


@dataclass(frozen=True, eq=False)
class _Loaded:
    squares: list[Image]
    size: tuple[int, int]
    image: Image | None


@dataclass(frozen=True, eq=False)
class _Inferred:
    maps: dict[str, list[NDArray[np.float32]]]
    """Per method the fused map of each target."""
    targets: list[int]
    probabilities: NDArray[np.float32]
    """(classes,)"""


_Finish: TypeAlias = Callable[[Callable[[], Image], Callable[[str], Cam], str], Record]
"""(the image, each method's map, the outputs' name) -> files written and further facts, for the manifest."""


def label_folder(
    images: Dataset | Path | str,
    classifier: Classifier,
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

    def finish(image: Callable[[], Image], cam: Callable[[str], Cam], name: str) -> Record:
        labelled = label_map(image(), cam(settings.method), settings, classifier)
        files = {"mask": f"masks/{name}.png"}
        write_mask(folder / files["mask"], labelled.mask)
        if "cams" in save:
            files["cam"] = f"cams/{name}.png"
            write_cam(folder / files["cam"], labelled.cam)
        if "trimaps" in save and labelled.trimap is not None:
            files["trimap"] = f"trimaps/{name}.png"
            write_image(folder / files["trimap"], labelled.trimap)
        if "alphas" in save and labelled.alpha is not None:
            files["alpha"] = f"alphas/{name}.png"
            write_cam(folder / files["alpha"], labelled.alpha)
        if "overlays" in save:
            files["overlay"] = f"overlays/{name}.png"
            write_image(folder / files["overlay"], overlay_mask(image(), labelled.mask))
        return {"files": files, "area": int(labelled.mask.sum()), "fallback": labelled.fallback}

    # A threshold file may change under its name: what it says decides too.
    rules = [[rule.kind, rule.value] for rule in map(parse_threshold, _thresholds(settings))]
    decisive = {**asdict(settings), "rules": rules, "save": sorted(save)}
    facts = {"propagation": settings.propagation, "threshold": settings.threshold, "refiner": settings.refiner}
    return _NetworkFolder(
        plan=plan(classifier, settings.cams(classifier)),
        limit=BatchLimit((options or FolderOptions()).say),
        rule=target_rule(targets, classifier, images.samples),
        finish=finish,
        facts=facts,
    ).process("label", images, folder, decisive, targets, batch_size, options)


def cams_folder(
    images: Dataset | Path | str,
    classifier: Classifier,
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

    def finish(image: Callable[[], Image], cam: Callable[[str], Cam], name: str) -> Record:
        files = {method: f"{method}/{name}{suffix}" for method in settings.methods}
        for method, file in files.items():
            write(folder / file, cam(method))
        return {"files": files}

    return _NetworkFolder(
        plan=plan(classifier, settings),
        limit=BatchLimit((options or FolderOptions()).say),
        rule=target_rule(targets, classifier, images.samples),
        finish=finish,
        facts={},
    ).process("cams", images, folder, asdict(settings), targets, batch_size, options)


@dataclass(frozen=True, kw_only=True)
class _NetworkFolder:
    """The steps of a command that runs the network over a folder."""

    plan: Plan
    limit: BatchLimit
    rule: TargetRule
    finish: _Finish
    facts: Record

    @property
    def classifier(self) -> Classifier:
        return self.plan.network.classifier

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
            "layers": self.plan.network.layers,
            "scales": self.plan.scales,
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
        image = read_image(sample.path, self.classifier.window)
        squares = [self.classifier.to_input(image, scale) for scale in self.plan.input_scales]
        kept = image if image.shape[0] * image.shape[1] <= _KEPT_PIXELS else None
        return _Loaded(squares=squares, size=image.shape[:2], image=kept)

    def infer(self, samples: Sequence[Sample], loaded: Sequence[_Loaded | None]) -> list[_Inferred]:
        side = self.classifier.image_size
        sides = [round(scale * side) for scale in self.plan.input_scales]
        blank = [np.zeros((pixels, pixels, 3), np.uint8) for pixels in sides]

        def choose(n: int, probabilities: NDArray[np.float32]) -> Sequence[int]:
            return [] if loaded[n] is None else self.rule.targets(self.classifier, samples[n], probabilities)

        inputs = stack_inputs([blank if one is None else one.squares for one in loaded])
        found = extract(self.plan, inputs, choose, self.limit)
        return [
            _Inferred(
                maps={method: maps[n] for method, maps in found.maps.items()},
                targets=list(found.targets[n]),
                probabilities=found.probabilities[n],
            )
            for n in range(len(samples))
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
            done = self.finish(image, cam, f"{name}/{sample.name}" if self.rule.per_class else sample.name)
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
            "layer": ",".join(self.plan.network.layers),
            "scales": list(self.plan.scales),
            "propagation": None,
            "threshold": None,
            "refiner": None,
            "fallback": None,
            "area": None,
            "status": "ok",
            "error": None,
            **self.facts,
        }


def _dataset(images: Dataset | Path | str, classifier: Classifier) -> Dataset:
    return images if isinstance(images, Dataset) else load_images(images, classifier.classes)


def _thresholds(settings: LabelSettings) -> list[str]:
    return [text for text in (settings.threshold, settings.trimap.low, settings.trimap.high) if text is not None]


def check_choice(kind: str, name: str, choices: Mapping[str, object]) -> None:
    """Raise InputError, with the choices, for a name that is none of them."""
    if name not in choices:
        raise InputError(f"unknown {kind} {name!r}; choose among {', '.join(choices)}")
