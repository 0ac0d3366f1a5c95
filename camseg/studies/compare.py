"""The papers' table: classifiers x CAM methods, every number on images that no training saw.

Classifiers are trained by name or loaded from runs; thresholds are chosen on the validation images' masks alone.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.activations import predict
from camseg.arrays import Cam, Image, Mask, check_same_size, quantise
from camseg.cams import CamSettings, compute_cams, plan
from camseg.classifier import AnyClassifier, find_device, load_classifier
from camseg.datasets import Dataset, Sample, check_disjoint, image_places, load_training_data, split
from camseg.errors import CheckpointError, DatasetError, EvaluationError, InputError, OutputError
from camseg.faithfulness import confidence_drop, confidences
from camseg.files import contents_sha256, read_json, sha256, write_json
from camseg.folders import check_apart
from camseg.images import find_images, read_image, read_mask, relative_name
from camseg.metrics import bootstrap_interval, classification_metrics, dice, threshold_counts
from camseg.models import check_architecture, read_weights
from camseg.progress import Progress, Say, silent, unheard
from camseg.results import RUN, Output, Run, check_names
from camseg.runs import Prepared, Training, plan_training, prepare_training, run_training, trained_on
from camseg.studies.compare_report import Cell, Comparison, ModelScores, write_comparison

TEST_FRACTION: Final = 0.2
"""Share of the images that is split off for the test where neither images, option nor recipe say otherwise."""
WITHOUT_MASKS: Final = 64
"""Most test images whose maps are made where no masks judge them, evenly over the sorted names."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Images on which something is measured."""

    data: Dataset
    masks: Mapping[str, Path] = field(default_factory=dict)  # of the images with an object, by name

    @property
    def objects(self) -> list[Sample]:
        return [sample for sample in self.data.samples if sample.name in self.masks]


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What is the same for every model."""

    val: _Part
    test: _Part
    with_masks: bool
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
    out, cams, chosen = Path(out), cams or CamSettings(), dict(changes or {})
    names = _names(models, out)
    _check_masks(test, masks, test_masks)
    weights = chosen.pop("weights", None) or "imagenet"
    start = weights if weights in ("imagenet", "none") else _check_weights(weights)
    training = _plan(data, test, recipe, chosen)
    train, val, tested = _split(training, test)
    for part in (train, val, tested):
        check_apart(part, out)
        check_names((sample.name, sample.path) for sample in part.samples)
    classifiers = {name: _load(model, training, device) for name, model in names.items() if _is_run(model)}
    _check_classes(classifiers, train, tested)
    untrained = _Untrained(
        data=data,
        recipe=recipe,
        changes={**chosen, "test_fraction": training.test_fraction},
        weights=weights,
        cams=cams,
        say=say,
    )
    prepared: dict[str, Prepared] = {}
    for name in names:
        if name in classifiers:
            plan(classifiers[name], cams)
        elif overwrite or not (_run_folder(out, name) / "metrics.json").exists():
            prepared[name] = untrained.prepare(name, _run_folder(out, name))
    negative = {label for one in classifiers.values() for label in one.negative} | set(training.negative)
    if not _without_negative(tested, negative):
        raise InputError(f"every test image is of a negative class ({', '.join(sorted(negative))}): none has an object")
    study = _Study(
        val=_part(val, masks, negative, progress, "validation"),
        test=_part(tested, masks if test is None else test_masks, negative, progress, "test"),
        with_masks=masks is not None,
        cams=cams,
        batch_size=training.settings.batch_size,
        out=out,
        device=device,
        progress=progress,
        say=say,
    )
    parts = {"train": train, "val": val, "test": tested}
    folders = {"test": test, "masks": masks, "test_masks": test_masks}
    judged = [*study.val.masks.values(), *study.test.masks.values()]
    facts = {**_identity(training, parts, folders, judged, cams, start), "device": find_device(device).type}
    if overwrite and _is_comparison(out):
        for folder in ("runs", "cells"):
            shutil.rmtree(out / folder, ignore_errors=True)
    Output(out, Run(command="compare", settings=facts), overwrite=overwrite)
    scores, cells = [], []
    for name in names:
        if name in classifiers:
            row = _measure(study, name, "run", classifiers[name])
        else:
            row = _measure(study, name, *_train(study, name, prepared.pop(name, None)))
        scores.append(row[0])
        cells += row[1]
    found = Comparison(
        data=str(data),
        test=str(data if test is None else test),
        images={"train": len(train.samples), "val": len(val.samples), "test": len(tested.samples)},
        masks=study.with_masks,
        models=tuple(scores),
        cells=tuple(cells),
        notes=tuple(_notes(study, scores, classifiers)),
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
    if not models or len(set(names)) < len(names):
        raise InputError(f"expected different models, at least one; got {', '.join(map(str, models)) or 'none'}")
    return dict(zip(names, models, strict=True))


def _architecture(model: str) -> str:
    try:
        return check_architecture(model)
    except InputError as error:
        raise InputError(f"{model!r} is no folder of a run, and no architecture: {error}") from None


def _check_masks(test: Path | str | None, masks: Path | str | None, test_masks: Path | str | None) -> None:
    if masks is None and test_masks is not None:
        raise InputError("expected masks of DATA beside those of the test images: they choose the threshold")
    if masks is not None and (test is None) != (test_masks is None):
        wrong = "masks of test images, but no test images" if test is None else "test images, but no masks of them"
        raise InputError(f"got {wrong}; give --test and --test-masks, or neither")


def _is_run(model: str) -> bool:
    return Path(model).is_dir()


def _is_comparison(out: Path) -> bool:
    """Whether what lies in a folder may be removed as an earlier comparison's."""
    return (out / RUN).is_file() and read_json(out / RUN, OutputError).get("command") == "compare"


def _run_folder(out: Path, name: str) -> Path:
    return out / "runs" / _file_name(name)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]", "-", name)


def _plan(data: Path | str, test: Path | str | None, recipe: str | None, changes: dict[str, Any]) -> Training:
    """The training of every model, but for the model."""
    if own := sorted({"model", "val"} & changes.keys()):
        raise InputError(f"a comparison has models and a validation split of its own; leave out {', '.join(own)}")
    if test is not None and changes.get("test_fraction"):
        raise InputError("expected test images, or a share of DATA for the test, not both")
    training = plan_training(data, recipe=recipe, changes={**changes, "weights": "none"})
    fraction = 0.0 if test is not None else training.test_fraction or TEST_FRACTION
    return replace(training, test_fraction=fraction)


def _split(training: Training, test: Path | str | None) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test images, the first two as ``prepare_training`` splits them."""
    data, seed = load_training_data(training.data), training.settings.seed
    rest, tested = split(data, training.test_fraction, seed) if test is None else (data, load_training_data(test))
    if data.multi_label or tested.multi_label:
        raise DatasetError("a comparison needs images with one class each; some have several, or none")
    check_disjoint(rest, tested)
    return *split(rest, training.val_fraction, seed), tested


def _load(run: str, training: Training, device: str) -> AnyClassifier:
    classifier = load_classifier(run, device)
    if classifier.multi_label:
        raise InputError(f"run {run} tells independent classes apart; a comparison needs classes that exclude others")
    return classifier.with_negative(training.negative) if training.negative else classifier


def _check_classes(classifiers: Mapping[str, AnyClassifier], train: Dataset, test: Dataset) -> None:
    test.targets(train.classes)
    for name, classifier in classifiers.items():
        if set(classifier.classes) != set(train.classes):
            raise InputError(
                f"run {name} tells {', '.join(classifier.classes)} apart, and {train.root} holds "
                f"{', '.join(train.classes)}; compare runs on images of their own classes"
            )


@dataclass(frozen=True, kw_only=True)
class _Untrained:
    """Makes classifiers ready for their training, so that what cannot work is refused before the first one."""

    data: Path | str
    recipe: str | None
    changes: Mapping[str, Any]
    weights: str
    cams: CamSettings
    say: Say

    def prepare(self, name: str, run: Path) -> Prepared:
        """The training of an architecture, its layers and scales tried."""
        try:
            prepared = self._prepare(name, run, self.weights)
        except (InputError, CheckpointError) as problem:
            if self.weights in ("imagenet", "none"):
                raise
            prepared = self._prepare(name, run, "none")  # raises again where the weights were not to blame
            self.say(f"{name} starts from scratch: {problem}")
        plan(prepared.classifier, self.cams)
        return prepared

    def _prepare(self, name: str, run: Path, weights: str) -> Prepared:
        # Not every architecture has weights of ImageNet: None takes them where they are.
        start = {"model": name, "weights": None if weights == "imagenet" else weights}
        return prepare_training(plan_training(self.data, recipe=self.recipe, changes={**self.changes, **start}), run)


def _part(data: Dataset, masks: Path | str | None, negative: set[str], progress: Progress, title: str) -> _Part:
    """The images with the masks of those that hold an object; each file is read once, before anything is trained."""
    files = {} if masks is None else _find_masks(data, Path(masks), negative)
    objects = {}
    for sample in progress(data.samples, len(data.samples), f"reading {title} images"):
        image = read_image(sample.path)
        if sample.name in files and _read_mask(files[sample.name], image, sample).any():
            objects[sample.name] = files[sample.name]
    if masks is not None and not objects:
        raise EvaluationError(f"expected masks with objects in {masks}; those of all {title} images are empty")
    return _Part(data=data, masks=objects)


def _find_masks(data: Dataset, folder: Path, negative: set[str]) -> dict[str, Path]:
    found = find_images(folder)
    masks = {relative_name(path, found.root): path for path in found.files}
    needed = [sample.name for sample in data.samples if not negative.intersection(sample.labels or ())]
    if missing := [name for name in needed if name not in masks]:
        raise EvaluationError(
            f"expected a true mask in {folder} for each of {len(needed)} images; {len(missing)} are missing, the "
            f"first is {missing[0]}; add them, name classes without objects by --negative, or leave masks out"
        )
    return masks


def _read_mask(path: Path, image: Image, sample: Sample) -> Mask:
    mask = read_mask(path)
    try:
        check_same_size(image, mask, f"the image {sample.name} and its true mask")
    except InputError as error:
        raise EvaluationError(str(error)) from None
    return mask


def _identity(
    training: Training,
    parts: Mapping[str, Dataset],
    folders: Mapping[str, Path | str | None],
    masks: Iterable[Path],
    cams: CamSettings,
    start: str,
) -> dict[str, Any]:
    """What two calls that share a folder must have in common; more models and methods may come."""
    samples = [[[sample.name, sample.labels, sample.group] for sample in part.samples] for part in parts.values()]
    files = [sample.path for part in parts.values() for sample in part.samples]
    facts: dict[str, Any] = {**asdict(training), **asdict(training.settings), **asdict(cams)}
    for name in ("settings", "methods", "model", "workers", "weights_sha256"):
        del facts[name]
    return {
        **facts,
        "weights": start,
        "samples": hashlib.sha256(json.dumps(samples).encode()).hexdigest()[:12],
        "contents": contents_sha256([*files, *masks])[:12],
        **{name: None if folder is None else os.path.abspath(folder) for name, folder in folders.items()},
    }


def _check_weights(path: str) -> str:
    """The hash of a weights file that can be read."""
    read_weights(path)
    return sha256(path)


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
        predict(classifier, [read_image(sample.path, classifier.window) for sample in batch])
        for batch in _batches(study, data.samples, f"{name}, test images")
    ]
    found = classification_metrics(data.targets(classifier.classes), np.concatenate(rows), classifier.classes, False)
    count = sum(parameter.numel() for member in classifier.members for parameter in member.model.parameters())
    return {"parameters": count, **{key: found[key] for key in ("accuracy", "macro_f1")}}


def _judge_maps(study: _Study, classifier: AnyClassifier, method: str, title: str) -> dict[str, Any]:
    """What the maps of one method are worth, by image, and the seconds that one takes."""
    seconds: list[float] = []
    if not study.with_masks:
        samples = _without_negative(study.test.data, classifier.negative)
        places = np.linspace(0, len(samples) - 1, min(WITHOUT_MASKS, len(samples))).round().astype(int)
        drops: dict[str, float] = {}
        for sample, image, cam, each in _maps(study, classifier, method, [samples[n] for n in places], title):
            drops[sample.name] = _average_drop(classifier, sample, image, cam)
            seconds.append(each)
        return {"average_drop": drops, "seconds": float(np.mean(seconds))}
    curves: dict[str, NDArray[np.float64]] = {}  # (256,) each
    for sample, image, cam, _ in _maps(study, classifier, method, study.val.objects, f"{title}, validation"):
        curves[sample.name] = _dice_curve(study.val, sample, image, cam)
    level = int(np.mean(list(curves.values()), axis=0).argmax())
    curves = {}
    for sample, image, cam, each in _maps(study, classifier, method, study.test.objects, title):
        curves[sample.name] = _dice_curve(study.test, sample, image, cam)
        seconds.append(each)
    return {
        "mean_dice": {name: float(curve.mean()) for name, curve in curves.items()},
        "dice": {name: float(curve[level]) for name, curve in curves.items()},
        "level": level,
        "seconds": float(np.mean(seconds)),
    }


def _maps(
    study: _Study, classifier: AnyClassifier, method: str, samples: Sequence[Sample], title: str
) -> Iterator[tuple[Sample, Image, Cam, float]]:
    """Every image with the map of its own class, and the seconds from its file to that."""
    cams = study.cams
    for batch in _batches(study, samples, title):
        started = time.perf_counter()
        images = [read_image(sample.path, classifier.window) for sample in batch]
        maps = compute_cams(
            classifier,
            images,
            [_label(sample) for sample in batch],
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
        for sample, image, cam in zip(batch, images, maps, strict=True):
            yield sample, image, cam, each


def _dice_curve(part: _Part, sample: Sample, image: Image, cam: Cam) -> NDArray[np.float64]:
    return dice(threshold_counts(quantise(cam), _read_mask(part.masks[sample.name], image, sample)))


def _without_negative(data: Dataset, negative: Collection[str]) -> list[Sample]:
    return [sample for sample in data.samples if _label(sample) not in negative]


def _average_drop(classifier: AnyClassifier, sample: Sample, image: Image, cam: Cam) -> float:
    target = classifier.class_index(_label(sample))
    return confidence_drop(*confidences(lambda images: predict(classifier, list(images))[:, target], image, cam))


def _batches(study: _Study, samples: Sequence[Sample], title: str) -> Iterator[Sequence[Sample]]:
    starts = range(0, len(samples), study.batch_size)
    parts = (samples[start : start + study.batch_size] for start in starts)
    return study.progress(parts, len(starts), title)


def _label(sample: Sample) -> str:
    (label,) = sample.labels or ()
    return label


# ---- what is reported ----------------------------------------------------------------------------


def _cell(study: _Study, model: str, method: str, found: Mapping[str, Any]) -> Cell:
    def mean(measure: str) -> float | None:
        return float(np.mean(list(found[measure].values()))) if measure in found else None

    measured = found["mean_dice" if study.with_masks else "average_drop"]
    groups = {sample.name: sample.group or sample.name for sample in study.test.data.samples}
    interval = None
    if study.with_masks:
        interval = bootstrap_interval(list(measured.values()), groups=[groups[name] for name in measured])
    return Cell(
        model=model,
        method=method,
        images=len(measured),
        mean_dice=mean("mean_dice"),
        interval=interval,
        dice=mean("dice"),
        level=found.get("level"),
        average_drop=mean("average_drop"),
        seconds=found["seconds"],
    )


def _notes(study: _Study, scores: Sequence[ModelScores], runs: Mapping[str, AnyClassifier]) -> list[str]:
    notes = ["Maps are of each image's own class; seconds are from the file to the map."]
    if study.with_masks:
        notes.append(
            f"Maps are judged on the {len(study.test.masks)} test images with an object; 95 % bootstrap intervals; "
            f"thresholds are chosen on the masks of {len(study.val.masks)} validation images."
        )
    if scratch := [one.name for one in scores if one.start == "scratch"]:
        notes.append(f"Trained from scratch: {', '.join(scratch)}.")
    tested = image_places(study.test.data)
    for name, classifier in runs.items():
        seen = _seen(classifier)
        if seen is None:
            notes.append(f"What {name} was trained on cannot be told; it may have seen test images.")
        elif seen & tested:
            notes.append(f"{name} was trained on {len(seen & tested)} of the {len(tested)} test images.")
    return notes


def _seen(classifier: AnyClassifier) -> set[str] | None:
    """The images that a run was trained and validated on; None where it does not say, or they are gone."""
    members = [trained_on(member) for member in classifier.members]
    return set().union(*(part for parts in members if parts for part in parts)) if all(members) else None
