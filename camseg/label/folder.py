"""A folder of images -> files: ``label_folder`` goes through the whole chain, ``cams_folder`` stops at the maps."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Image
from camseg.base.errors import InputError
from camseg.base.files import sha256
from camseg.base.workers import Call, worker_processes
from camseg.cams.extract import BatchLimit, CamSettings, Grids, Plan, extract, plan, stack_inputs, to_image_size
from camseg.classify.classifier import AnyClassifier
from camseg.classify.targets import TargetRule, target_rule
from camseg.data.datasets import Dataset, Sample, load_images
from camseg.data.images import read_image, write_cam, write_image, write_mask, write_raw
from camseg.label.chain import classifier_features, label_map, needs_features
from camseg.label.settings import LabelSettings
from camseg.masks.threshold import parse_threshold
from camseg.measure.figures import overlay_mask
from camseg.refinement.refine import METHODS as REFINERS
from camseg.refinement.refine import open_network
from camseg.runs.loop import FolderOptions, Report, Steps, run_folder
from camseg.runs.output import Record

KINDS = ("cams", "trimaps", "alphas", "overlays")
"""What ``label`` writes beside masks on request."""

_KEPT_PIXELS = 4_000_000
"""Larger images are not kept while they wait for the network, but read again for the later stages."""


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
