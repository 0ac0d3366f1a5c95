"""The papers' table: classifiers x CAM methods, every number on images that no training saw.

Classifiers are trained by name or loaded from runs; thresholds are chosen on the validation images' masks alone.
"""

import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Image, quantise
from camseg.base.device import find_device
from camseg.base.errors import CheckpointError, InputError, OutputError
from camseg.base.files import read_json, write_json
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.cams.capture import predict
from camseg.cams.compute import compute_cams
from camseg.cams.extract import CamSettings, plan
from camseg.classify.checkpoint import AnyClassifier, load_classifier
from camseg.data.datasets import Dataset, Sample, check_disjoint, load_training_data
from camseg.data.images import read_image, read_mask
from camseg.measure.faithfulness import confidence_drop, filter_image
from camseg.measure.metrics import classification_metrics, dice, threshold_counts
from camseg.models.building import check_architecture
from camseg.runs.loop import check_apart
from camseg.runs.output import Output, Run, check_names
from camseg.studies.compare_report import Cell, Comparison, ModelScores, write_comparison
from camseg.studies.material import (
    StudyImages,
    acquaintance,
    check_exclusive,
    check_run,
    images_identity,
    in_batches,
    own_class,
    read_study_images,
    starting_weights,
)
from camseg.train.plan import Prepared, load_parts, plan_training, prepare_training, run_training
from camseg.train.settings import Training

TEST_FRACTION: Final = 0.2
"""Share of the images that is split off for the test where neither images, option nor recipe say otherwise."""
WITHOUT_MASKS: Final = 64
"""Most test images whose maps are made where no masks judge them, evenly over the sorted names."""


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """Where images and masks lie."""

    data: Path | str
    test: Path | str | None
    masks: Path | str | None
    test_masks: Path | str | None

    def __post_init__(self) -> None:
        if self.masks is None and self.test_masks is not None:
            raise InputError("expected masks of DATA beside those of the test images: they choose the threshold")
        if self.masks is not None and (self.test is None) != (self.test_masks is None):
            wrong = "masks of test images, but no test images"
            if self.test is not None:
                wrong = "test images, but no masks of them"
            raise InputError(f"got {wrong}; give --test and --test-masks, or neither")


@dataclass(frozen=True, kw_only=True)
class _Trainings:
    """How architectures are trained: all alike, but for weights that do not fit every one."""

    common: Training  # but for the model and its weights
    changes: Mapping[str, Any]
    weights: str
    start: str  # as starting_weights says
    say: Say

    def prepare(self, name: str, run: Path, cams: CamSettings) -> Prepared:
        """The training of an architecture, its layers and scales tried."""
        try:
            prepared = self._prepare(name, run, self.weights)
        except (InputError, CheckpointError) as problem:
            if self.weights in ("imagenet", "none"):
                raise
            prepared = self._prepare(name, run, "none")  # raises again where the weights were not to blame
            self.say(f"{name} starts from scratch: {problem}")
        plan(prepared.classifier, cams)
        return prepared

    def _prepare(self, name: str, run: Path, weights: str) -> Prepared:
        # Not every architecture has weights of ImageNet: None takes them where they are.
        changes = {**self.changes, "model": name, "weights": None if weights == "imagenet" else weights}
        return prepare_training(plan_training(self.common.data, recipe=self.common.recipe, changes=changes), run)


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What is the same for every model."""

    train: StudyImages  # which needs no masks
    val: StudyImages  # with masks where there are any, as the test images
    test: StudyImages
    cams: CamSettings
    batch_size: int
    out: Path
    device: str
    progress: Progress
    say: Say


def compare_models(
    models: Sequence[str],
    data: Path | str,
    out: Path | str,
    *,
    test: Path | str | None = None,
    masks: Path | str | None = None,
    test_masks: Path | str | None = None,
    recipe: str | None = None,
    changes: Mapping[str, Any] | None = None,
    cams: CamSettings | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> Comparison:
    """Train or load each model, extract each method's maps; write ``compare.json``, ``.csv``, ``.md`` and ``.png``.

    ``models``: architectures by name, trained on ``data`` into ``out/runs``, or folders of runs, ensembles too.
    ``test``: labelled images for every score; None: split off from ``data``. ``masks`` and ``test_masks``: true masks
    of the same relative names as ``data`` and ``test``. ``recipe`` and ``changes`` are those of
    ``runs.plan_training``; a weights file serves the models that it fits, others start from scratch. What is finished
    is kept: a training, a classifier's scores, and each model's maps by one method; models and methods may be added.

    Raises InputError or DatasetError for images, models or settings that do not fit; EvaluationError for masks that
    are missing, empty or of another size; OutputError when ``out`` holds another comparison.
    """
    out, cams = Path(out), cams or CamSettings()
    names = _names(models, out)
    sources = _Sources(data=data, test=test, masks=masks, test_masks=test_masks)
    trainings = _plan_trainings(sources, recipe, dict(changes or {}), say)
    train, val, tested = _split(trainings.common, sources, out)
    runs = {
        name: _load(model, train, trainings.common, cams, device) for name, model in names.items() if _is_run(model)
    }
    prepared = {
        name: trainings.prepare(name, _run_folder(out, name), cams)
        for name in names
        if name not in runs and (overwrite or not (_run_folder(out, name) / "metrics.json").exists())
    }
    windows = {member.window for run in runs.values() for member in run.members}
    windows |= {trainings.common.window} if len(runs) < len(names) else set()
    negative = {name for run in runs.values() for name in run.negative} | set(trainings.common.negative)
    if not _without_negative(tested, negative):
        raise InputError(f"every test image is of a negative class ({', '.join(sorted(negative))}): none has an object")
    study = _Study(
        train=StudyImages(data=train),
        val=read_study_images(val, masks, negative, windows, progress, "validation"),
        test=read_study_images(tested, masks if test is None else test_masks, negative, windows, progress, "test"),
        cams=cams,
        batch_size=trainings.common.settings.batch_size,
        out=out,
        device=device,
        progress=progress,
        say=say,
    )
    facts = _identity(study, sources, trainings)
    Output(out, Run(command="compare", settings=facts), overwrite=overwrite, parts=("runs", "cells"))
    scores, cells = [], []
    for name in names:
        start, classifier = ("run", runs[name]) if name in runs else _train(study, name, prepared.pop(name, None))
        row, columns = _measure(study, name, start, classifier)
        scores.append(row)
        cells += columns
    found = Comparison(
        data=str(data),
        test=str(data if test is None else test),
        images={"train": len(train.samples), "val": len(val.samples), "test": len(tested.samples)},
        masks=masks is not None,
        models=tuple(scores),
        cells=tuple(cells),
        notes=tuple(_notes(study, scores, runs)),
    )
    write_comparison(out, found)
    return found


# ---- what is compared ----------------------------------------------------------------------------


def _names(models: Sequence[str], out: Path) -> dict[str, str]:
    """The models by the names that they have in the table."""
    for model in models:
        if _is_run(model) and Path(model).resolve().is_relative_to(out.resolve()):
            raise OutputError(f"the run {model} lies in the output folder {out}; choose another --out")
    short = [Path(os.path.abspath(model)).name if _is_run(model) else _architecture(model) for model in models]
    names = [name if short.count(name) == 1 else str(model) for name, model in zip(short, models, strict=True)]
    places = {Path(model).resolve() if _is_run(model) else _architecture(model) for model in models}
    if not models or len(places) < len(models):
        raise InputError(f"expected different models, at least one; got {', '.join(map(str, models)) or 'none'}")
    return dict(zip(names, models, strict=True))


def _architecture(model: str) -> str:
    try:
        return check_architecture(model)
    except InputError as error:
        raise InputError(f"{model!r} is no folder of a run, and no architecture: {error}") from None


def _is_run(model: str) -> bool:
    return Path(model).is_dir()


def _run_folder(out: Path, name: str) -> Path:
    return out / "runs" / _file_name(name)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]", "-", name)


def _plan_trainings(sources: _Sources, recipe: str | None, changes: dict[str, Any], say: Say) -> _Trainings:
    if own := sorted({"model", "val"} & changes.keys()):
        raise InputError(f"a comparison has models and a validation split of its own; leave out {', '.join(own)}")
    share = changes.get("test_fraction")
    if sources.test is not None and share:
        raise InputError("expected test images, or a share of DATA for the test, not both")
    if sources.test is None and share == 0:
        raise InputError("expected a share of DATA above 0 for the test, or test images: every score is of them")
    weights = changes.pop("weights", None) or "imagenet"
    start = starting_weights(weights)  # a file that no model can start from is refused first
    training = plan_training(sources.data, recipe=recipe, changes={**changes, "weights": "none"})
    share = 0.0 if sources.test is not None else training.test_fraction or TEST_FRACTION
    return _Trainings(
        common=replace(training, test_fraction=share),
        changes={**changes, "test_fraction": share},
        weights=weights,
        start=start,
        say=say,
    )


def _split(training: Training, sources: _Sources, out: Path) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test images, the first two as ``prepare_training`` splits them."""
    train, val, test = load_parts(
        training.data,
        val=None,
        val_fraction=training.val_fraction,
        test_fraction=training.test_fraction,
        seed=training.settings.seed,
    )
    if sources.test is not None:
        test = load_training_data(sources.test)
    assert test is not None  # one of the two is there
    for part in (train, val, test):
        check_exclusive(part)
        check_apart(part, out)
        check_names((sample.name, sample.path) for sample in part.samples)
    test.targets(train.classes)
    check_disjoint(replace(train, samples=(*train.samples, *val.samples)), test)
    return train, val, test


def _load(run: str, data: Dataset, training: Training, cams: CamSettings, device: str) -> AnyClassifier:
    """A run's classifier with the negative classes of the comparison, its layers and scales tried."""
    classifier = load_classifier(run, device)
    check_run(run, classifier, data)
    classifier = classifier.with_negative(training.negative) if training.negative else classifier
    plan(classifier, cams)
    return classifier


def _identity(study: _Study, sources: _Sources, trainings: _Trainings) -> dict[str, Any]:
    """What two calls that share a folder must have in common; more models and methods may come."""
    facts = {**asdict(trainings.common), **asdict(trainings.common.settings), **asdict(study.cams)}
    for name in ("settings", "methods", "model", "workers", "weights_sha256"):
        del facts[name]
    folders = {"test": sources.test, "masks": sources.masks, "test_masks": sources.test_masks}
    return {
        **facts,
        **{name: None if folder is None else os.path.abspath(folder) for name, folder in folders.items()},
        **images_identity(study.train, study.val, study.test),
        "weights": trainings.start,
        "device": find_device(study.device).type,
    }


# ---- what is measured ----------------------------------------------------------------------------


def _train(study: _Study, name: str, prepared: Prepared | None) -> tuple[str, AnyClassifier]:
    """Where a classifier started, and itself as it was trained, in an earlier call if nothing is prepared."""
    run = _run_folder(study.out, name)
    if prepared is not None:
        study.say(f"{name}: training")
        run_training(prepared, run, device=study.device, progress=study.progress, say=study.say)
    classifier = load_classifier(run, study.device)
    weights = str((classifier.members[0].training or {}).get("weights", "none"))
    return "scratch" if weights == "none" else Path(weights).name, classifier


def _measure(study: _Study, name: str, start: str, classifier: AnyClassifier) -> tuple[ModelScores, list[Cell]]:
    """A model's row of the table, what an earlier call finished taken from its files."""
    folder = study.out / "cells" / f"{_file_name(name)}-{classifier.fingerprint()[:12]}"
    if not (folder / "classifier.json").exists():
        write_json(folder / "classifier.json", _classify(study, classifier, name))
    scores = ModelScores(name=name, start=start, **read_json(folder / "classifier.json", InputError))
    cells = []
    for method in study.cams.methods:
        file = folder / f"{method}.json"
        if not file.exists():
            write_json(file, _judge_maps(study, classifier, method, f"{name}, {method}"))
        cells.append(_cell(study, name, method, read_json(file, InputError)))
    return scores, cells


def _classify(study: _Study, classifier: AnyClassifier, name: str) -> dict[str, Any]:
    data = study.test.data
    rows = [
        predict(classifier, [_views(classifier, sample) for sample in batch])
        for batch in in_batches(data.samples, study.batch_size, study.progress, f"{name}, test images")
    ]
    found = classification_metrics(data.targets(classifier.classes), np.concatenate(rows), classifier.classes, False)
    count = sum(parameter.numel() for member in classifier.members for parameter in member.model.parameters())
    return {"parameters": count, **{key: found[key] for key in ("accuracy", "macro_f1")}}


def _judge_maps(study: _Study, classifier: AnyClassifier, method: str, title: str) -> dict[str, Any]:
    """What the maps of one method are worth, by image, and the seconds that one takes."""
    seconds: list[float] = []
    if not study.test.masks:
        samples = _without_negative(study.test.data, classifier.negative)
        places = np.linspace(0, len(samples) - 1, min(WITHOUT_MASKS, len(samples))).round().astype(int)
        drops: dict[str, float] = {}
        for sample, views, cam, each in _maps(study, classifier, method, [samples[n] for n in places], title):
            drops[sample.name] = _average_drop(classifier, sample, views, cam)
            seconds.append(each)
        return {"average_drop": drops, "seconds": float(np.mean(seconds))}
    curves: dict[str, NDArray[np.float64]] = {}  # (256,) each
    for sample, _, cam, _ in _maps(study, classifier, method, study.val.objects, f"{title}, validation"):
        curves[sample.name] = _dice_curve(study.val, sample, cam)
    level = int(np.mean(list(curves.values()), axis=0).argmax())
    curves = {}
    for sample, _, cam, each in _maps(study, classifier, method, study.test.objects, title):
        curves[sample.name] = _dice_curve(study.test, sample, cam)
        seconds.append(each)
    return {
        "mean_dice": {name: float(curve.mean()) for name, curve in curves.items()},
        "dice": {name: float(curve[level]) for name, curve in curves.items()},
        "level": level,
        "seconds": float(np.mean(seconds)),
    }


def _maps(
    study: _Study, classifier: AnyClassifier, method: str, samples: Sequence[Sample], title: str
) -> Iterator[tuple[Sample, Mapping[str, Image], Cam, float]]:
    """Every image by window, with the map of its own class, and the seconds from its file to that."""
    cams = study.cams
    for batch in in_batches(samples, study.batch_size, study.progress, title):
        started = time.perf_counter()
        images = [_views(classifier, sample) for sample in batch]
        maps = compute_cams(
            classifier,
            images,
            [own_class(sample) for sample in batch],
            (method,),
            scales=cams.scales,
            flip=cams.flip,
            score=cams.score,
            layer=cams.layers,
            score_channels=cams.score_channels,
            precision=cams.precision,
            batch_size=study.batch_size,
        )[method]
        each = (time.perf_counter() - started) / len(batch)
        for sample, views, cam in zip(batch, images, maps, strict=True):
            yield sample, views, cam, each


def _views(classifier: AnyClassifier, sample: Sample) -> dict[str, Image]:
    """An image in the window of each member."""
    return {window: read_image(sample.path, window) for window in {member.window for member in classifier.members}}


def _dice_curve(part: StudyImages, sample: Sample, cam: Cam) -> NDArray[np.float64]:
    return dice(threshold_counts(quantise(cam), read_mask(part.masks[sample.name])))


def _average_drop(classifier: AnyClassifier, sample: Sample, views: Mapping[str, Image], cam: Cam) -> float:
    filtered = {window: filter_image(image, cam) for window, image in views.items()}
    full, rest = predict(classifier, [views, filtered])[:, classifier.class_index(own_class(sample))]
    return confidence_drop(float(full), float(rest))


def _without_negative(data: Dataset, negative: Collection[str]) -> list[Sample]:
    return [sample for sample in data.samples if own_class(sample) not in negative]


# ---- what is reported ----------------------------------------------------------------------------


def _cell(study: _Study, model: str, method: str, found: Mapping[str, Any]) -> Cell:
    def mean(measure: str) -> float | None:
        return float(np.mean(list(found[measure].values()))) if measure in found else None

    return Cell(
        model=model,
        method=method,
        images=len(found["mean_dice" if study.test.masks else "average_drop"]),
        mean_dice=mean("mean_dice"),
        interval=study.test.interval(found["mean_dice"]) if study.test.masks else None,
        dice=mean("dice"),
        level=found.get("level"),
        average_drop=mean("average_drop"),
        seconds=found["seconds"],
    )


def _notes(study: _Study, scores: Sequence[ModelScores], runs: Mapping[str, AnyClassifier]) -> list[str]:
    notes = ["Maps are of each image's own class; seconds are from the file to the map."]
    if study.test.masks:
        notes.append(
            f"Maps are judged on the {len(study.test.masks)} test images with an object; 95 % bootstrap intervals; "
            f"thresholds are chosen on the masks of {len(study.val.masks)} validation images."
        )
    if scratch := [one.name for one in scores if one.start == "scratch"]:
        notes.append(f"Trained from scratch: {', '.join(scratch)}.")
    met = [acquaintance(name, classifier, study.test.data, "test images") for name, classifier in runs.items()]
    return notes + [note for note in met if note is not None]
