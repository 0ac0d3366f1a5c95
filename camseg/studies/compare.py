"""The papers' table: classifiers x CAM methods, every number on images that no training saw.

Classifiers are trained by name or loaded from runs; thresholds are chosen on the validation images' masks alone.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from camseg.base.device import find_device
from camseg.base.errors import CheckpointError, InputError, OutputError
from camseg.base.files import read_json, write_json
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.settings import to_json
from camseg.cams.plan import plan
from camseg.cams.settings import CamSettings
from camseg.classify.checkpoint import AnyClassifier, load_classifier
from camseg.data.datasets import Dataset, load_training_data
from camseg.data.mask_settings import MaskReading
from camseg.data.splits import check_disjoint
from camseg.models.building import check_architecture
from camseg.runs.loop import check_apart
from camseg.runs.output import Output, check_names
from camseg.runs.run import Run
from camseg.studies.compare_report import Cell, Comparison, ModelScores, write_comparison
from camseg.studies.judging import Judge
from camseg.studies.material import (
    StudyImages,
    acquaintance,
    check_exclusive,
    check_run,
    images_identity,
    own_class,
    read_study_images,
    starting_weights,
)
from camseg.studies.settings import CompareSettings
from camseg.train.parts import load_parts
from camseg.train.plan import Prepared, plan_training, prepare_training, run_training
from camseg.train.settings import Training

TEST_FRACTION: Final = 0.2
"""Share of the images that is split off for the test where neither images, option nor recipe say otherwise."""


@dataclass(frozen=True, kw_only=True)
class _Places:
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
    judge: Judge
    out: Path
    device: str
    progress: Progress
    say: Say


def compare_models(
    models: Sequence[str],
    data: Path | str,
    out: Path | str,
    settings: CompareSettings | None = None,
    *,
    test: Path | str | None = None,
    masks: Path | str | None = None,
    test_masks: Path | str | None = None,
    reading: MaskReading | None = None,
    changes: Mapping[str, Any] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> Comparison:
    """Train or load each model, extract each method's maps; write ``compare.json``, ``.csv``, ``.md`` and ``.png``.

    ``models``: architectures by name, trained on ``data`` into ``out/runs``, or folders of runs, ensembles too.
    ``test``: labelled images for every score; None: split off from ``data``. ``masks`` and ``test_masks``: true masks
    of the same relative names as ``data`` and ``test``; ``reading``: which class of them counts, where they hold
    several. ``changes`` are those of ``plan_training``; a weights file serves the models that it fits, others start
    from scratch. What is finished is kept: a training, a classifier's scores, and each model's maps by one method;
    models and methods may be added.

    Raises InputError or DatasetError for images, models or settings that do not fit; EvaluationError for masks that
    are missing, empty or of another size; OutputError when ``out`` holds another comparison.
    """
    out, settings = Path(out), settings or CompareSettings()
    cams = settings.cams
    names = _names(models, out)
    places = _Places(data=data, test=test, masks=masks, test_masks=test_masks)
    trainings = _plan_trainings(places, settings, dict(changes or {}), say)
    train, val, tested = _split(trainings.common, places, out)
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
    if all(own_class(sample) in negative for sample in tested.samples):
        raise InputError(f"every test image is of a negative class ({', '.join(sorted(negative))}): none has an object")
    study = _Study(
        train=StudyImages(data=train),
        judge=Judge(
            val=read_study_images(val, masks, negative, windows, progress, "validation", reading),
            test=read_study_images(
                tested, masks if test is None else test_masks, negative, windows, progress, "test", reading
            ),
            cams=cams,
            batch_size=trainings.common.settings.batch_size,
            progress=progress,
        ),
        out=out,
        device=device,
        progress=progress,
        say=say,
    )
    asked = {**_asked(settings, changes or {}), **to_json(study.judge.test.reading)}
    facts = _identity(study, places, trainings)
    run = Run(command="compare", settings=asked, identity=facts)
    Output(out, run, overwrite=overwrite, parts=("runs", "cells"))
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
    meant = {Path(model).resolve() if _is_run(model) else _architecture(model) for model in models}
    if not models or len(meant) < len(models):
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


def _plan_trainings(places: _Places, settings: CompareSettings, changes: dict[str, Any], say: Say) -> _Trainings:
    if own := sorted({"model", "val", "test_fraction"} & changes.keys()):
        raise InputError(f"a comparison has models and splits of its own; leave out {', '.join(own)}")
    if places.test is not None and settings.test_fraction is not None:
        raise InputError("expected test images, or a share of DATA for the test, not both")
    weights = changes.pop("weights", None) or "imagenet"
    start = starting_weights(weights)  # a file that no model can start from is refused first
    training = plan_training(places.data, recipe=settings.recipe, changes={**changes, "weights": "none"})
    share = 0.0 if places.test else settings.test_fraction or training.test_fraction or TEST_FRACTION
    return _Trainings(
        common=replace(training, test_fraction=share),
        changes={**changes, "test_fraction": share},
        weights=weights,
        start=start,
        say=say,
    )


def _split(training: Training, places: _Places, out: Path) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test images, the first two as ``prepare_training`` splits them."""
    train, val, test = load_parts(
        training.data,
        val=None,
        val_fraction=training.val_fraction,
        test_fraction=training.test_fraction,
        seed=training.settings.seed,
    )
    if places.test is not None:
        test = load_training_data(places.test)
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


def _asked(settings: CompareSettings, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call, from which ``--config`` repeats it."""
    asked = to_json(settings)
    asked["cams"] = {name: value for name, value in asked["cams"].items() if name not in ("raw", "gate")}
    return {**asked, **{name: to_json(value) if is_dataclass(value) else value for name, value in changes.items()}}


def _identity(study: _Study, places: _Places, trainings: _Trainings) -> dict[str, Any]:
    """What two calls that share a folder must have in common; more models and methods may come."""
    facts = {**to_json(trainings.common), **to_json(trainings.common.settings), **study.judge.cams.identity()}
    for name in ("settings", "methods", "model", "workers", "weights_sha256"):
        del facts[name]
    folders = {"test": places.test, "masks": places.masks, "test_masks": places.test_masks}
    return {
        **facts,
        **{name: None if folder is None else os.path.abspath(folder) for name, folder in folders.items()},
        **images_identity(study.train, study.judge.val, study.judge.test),
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
        write_json(folder / "classifier.json", study.judge.classifier(classifier, name))
    scores = ModelScores(name=name, start=start, **read_json(folder / "classifier.json", InputError))
    cells = []
    for method in study.judge.cams.methods:
        file = folder / f"{method}.json"
        if not file.exists():
            write_json(file, study.judge.maps(classifier, method, f"{name}, {method}"))
        cells.append(_cell(study.judge.test, name, method, read_json(file, InputError)))
    return scores, cells


# ---- what is reported ----------------------------------------------------------------------------


def _cell(test: StudyImages, model: str, method: str, found: Mapping[str, Any]) -> Cell:
    def mean(measure: str) -> float | None:
        return float(np.mean(list(found[measure].values()))) if measure in found else None

    return Cell(
        model=model,
        method=method,
        images=len(found["mean_dice" if test.masks else "average_drop"]),
        mean_dice=mean("mean_dice"),
        interval=test.interval(found["mean_dice"]) if test.masks else None,
        dice=mean("dice"),
        level=found.get("level"),
        average_drop=mean("average_drop"),
        seconds=found["seconds"],
    )


def _notes(study: _Study, scores: Sequence[ModelScores], runs: Mapping[str, AnyClassifier]) -> list[str]:
    test, val = study.judge.test, study.judge.val
    notes = ["Maps are of each image's own class; seconds are from the file to the map."]
    if test.masks:
        notes.append(
            f"Maps are judged on the {len(test.masks)} test images with an object; 95 % bootstrap intervals; "
            f"thresholds are chosen on the masks of {len(val.masks)} validation images."
        )
    if scratch := [one.name for one in scores if one.start == "scratch"]:
        notes.append(f"Trained from scratch: {', '.join(scratch)}.")
    met = [acquaintance(name, classifier, test.data, "test images") for name, classifier in runs.items()]
    return notes + [note for note in met if note is not None]
