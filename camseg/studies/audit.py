"""What did the classifier look at? Its architecture is trained again on images which show only that, or all but that.

The second experiment of Guan and Loew, "A sneak attack on segmentation of medical images using deep neural network
classifiers" (AIPR 2021, arXiv:2201.02771), with repeats, and beside it the measures of ``faithfulness``.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camseg.base.device import find_device
from camseg.base.errors import EvaluationError, InputError
from camseg.base.files import read_json, write_json
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.settings import to_json
from camseg.classify.checkpoint import load_network
from camseg.classify.classifier import Classifier
from camseg.data.datasets import Dataset, load_training_data
from camseg.data.mask_settings import MaskReading
from camseg.data.splits import split
from camseg.measure.metrics import overlapping_splits_interval
from camseg.runs.loop import check_apart
from camseg.runs.output import Output, check_names
from camseg.runs.run import Run
from camseg.studies.audit_report import FILTERS, MAP_MEASURES, Audit, Estimate, RunAudit, write_audit
from camseg.studies.filtering import filter_by_maps, filter_by_masks, measure_maps
from camseg.studies.material import (
    StudyImages,
    acquaintance,
    check_exclusive,
    check_run,
    digest,
    images_identity,
    own_class,
    read_study_images,
    starting_weights,
)
from camseg.studies.settings import AuditSettings
from camseg.train.settings import TrainSettings
from camseg.train.trainer import train_classifier


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What is the same for every run."""

    images: StudyImages  # without masks where none are given
    splits: Mapping[int, tuple[Dataset, Dataset]]  # by seed
    settings: AuditSettings
    out: Path
    keep: bool  # the filtered images
    device: str
    progress: Progress
    say: Say

    @property
    def filters(self) -> list[str]:
        return [name for name in FILTERS if self.images.masks or name in ("original", "cam")]

    @property
    def measured(self) -> Dataset:
        """The validation images of the first split."""
        return self.splits[self.settings.seed][1]


def audit_runs(
    runs: Sequence[Path | str],
    data: Path | str,
    out: Path | str,
    *,
    masks: Path | str | None = None,
    reading: MaskReading | None = None,
    settings: AuditSettings | None = None,
    keep_filtered: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> Audit:
    """Audit classifier runs on labelled images; write ``audit.json``, ``.csv``, ``.md`` and, with masks, ``.png``.

    data: a folder of class folders, or a CSV, as for training; masks: true masks of the same relative names; a class
    that is negative for one of the runs needs none; reading: which class of them counts, where they hold several.
    For each run and seed its architecture is trained on each of ``FILTERS``; runs of equal architecture and
    preprocessing share the trainings that do not depend on their maps. A training that is finished is kept in ``out``,
    without its weights, and not repeated. ``keep_filtered`` leaves the filtered images in ``out/filtered``.

    Raises InputError or DatasetError for images, classes, runs or settings that do not fit; EvaluationError for masks
    that are missing, empty or of another size; OutputError when ``out`` holds another audit.
    """
    settings, out = settings or AuditSettings(), Path(out)
    dataset = _read_data(data, out)
    classifiers = _load(runs, dataset, settings, device)
    negative = {name for classifier in classifiers.values() for name in classifier.negative}
    windows = {classifier.window for classifier in classifiers.values()}
    images = read_study_images(dataset, masks, negative, windows, progress, "labelled", reading)
    study = _Study(
        images=images,
        splits=_split(images, settings),
        settings=settings,
        out=out,
        keep=keep_filtered,
        device=device,
        progress=progress,
        say=say,
    )
    asked = {**to_json(settings), **to_json(images.reading)}
    run = Run(command="audit", settings=asked, identity=_identity(study, data, masks))
    Output(out, run, overwrite=overwrite, parts=("trainings", "maps", "filtered"))
    labels = [own_class(sample) for sample in dataset.samples]
    found = Audit(
        data=str(data),
        images=len(labels),
        masks=None if masks is None else str(masks),
        majority=max(map(labels.count, dataset.classes)) / len(labels),
        settings=settings,
        runs=tuple(
            _audit(study, name, Path(place), classifier)
            for (name, classifier), place in zip(classifiers.items(), runs, strict=True)
        ),
    )
    write_audit(out, found)
    return found


# ---- what is audited -----------------------------------------------------------------------------


def _read_data(data: Path | str, out: Path) -> Dataset:
    dataset = load_training_data(data)
    check_exclusive(dataset)
    check_apart(dataset, out)
    check_names((sample.name, sample.path) for sample in dataset.samples)
    return dataset


def _load(runs: Sequence[Path | str], data: Dataset, settings: AuditSettings, device: str) -> dict[str, Classifier]:
    """The classifiers by the shortest names that tell their folders apart."""
    places = [Path(run).resolve() for run in runs]
    if not runs or len(set(places)) < len(places):
        raise InputError(f"expected different runs, at least one; got {', '.join(map(str, runs)) or 'none'}")
    depths = range(1, 1 + max(len(place.parts) for place in places))
    depth = next(n for n in depths if len({place.parts[-n:] for place in places}) == len(places))
    classifiers = {"/".join(place.parts[-depth:]): load_network(place, device) for place in places}
    for name, classifier in classifiers.items():
        check_run(name, classifier, data)
        _untrained(classifier, settings)  # what cannot be built is refused before the first training
    return classifiers


def _split(images: StudyImages, settings: AuditSettings) -> dict[int, tuple[Dataset, Dataset]]:
    """Training and validation images by seed; each side has masks to lend where there are any."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    splits = {seed: split(images.data, settings.val_fraction, seed) for seed in seeds}
    for part in (part for parts in splits.values() for part in parts):
        if images.masks and not images.lenders(part):
            raise EvaluationError("expected true masks with objects on both sides of the split; all are empty on one")
    return splits


def _identity(study: _Study, data: Path | str, masks: Path | str | None) -> dict[str, Any]:
    """What two calls that share a folder must have in common; more runs and seeds may come."""
    chosen = {name: value for name, value in to_json(study.settings).items() if name not in ("seed", "seeds")}
    return {
        **chosen,
        "weights": starting_weights(study.settings.weights),
        "data": os.path.abspath(data),
        "masks": None if masks is None else os.path.abspath(masks),
        "device": find_device(study.device).type,
        **images_identity(study.images),
    }


# ---- what is measured ----------------------------------------------------------------------------


def _audit(study: _Study, name: str, run: Path, classifier: Classifier) -> RunAudit:
    """The trainings and the measures of one run, what an earlier call finished taken from its files."""
    settings = study.settings
    own, shared = classifier.fingerprint()[:12], digest(_architecture(classifier, settings))
    places = {
        (kind, seed): study.out / f"trainings/{classifier.arch}-{own if kind == 'cam' else shared}/{kind}/{seed}"
        for seed in study.splits
        for kind in study.filters
    }
    # The measures are of the first split, which another first seed would change.
    maps_file = study.out / "maps" / f"{classifier.arch}-{own}-{settings.seed}.json"
    accuracies: dict[str, list[float]] = {kind: [] for kind in study.filters}
    with _folder(study, name) as folder:
        todo = [place for place in places.values() if not (place / "metrics.json").exists()]
        if todo or study.keep or not maps_file.exists():
            facts = _write_filtered(study, classifier, folder)
            if not maps_file.exists():
                write_json(maps_file, {**facts, **measure_maps(classifier, study.measured, settings, study.progress)})
        for (kind, seed), place in places.items():
            if place in todo:
                study.say(f"{name}: training {todo.index(place) + 1} of {len(todo)}, {kind}, seed {seed}")
                _train(study, classifier, kind, seed, place, folder)
            accuracies[kind].append(float(read_json(place / "metrics.json", InputError)["accuracy"]))
    maps = read_json(maps_file, InputError)
    shares = [len(val.samples) / len(train.samples) for train, val in study.splits.values()]
    return RunAudit(
        name=name,
        run=str(run),
        arch=classifier.arch,
        accuracies={kind: _over_seeds(values, float(np.mean(shares))) for kind, values in accuracies.items()},
        by_seed={kind: tuple(values) for kind, values in accuracies.items()},
        mean_dice=_over_images(study, maps["mean_dice"]) if maps["mean_dice"] else None,
        measures={measure: _over_images(study, maps[measure]) for measure in MAP_MEASURES if maps[measure]},
        black=maps["black"],
        acquainted=acquaintance(name, classifier, study.measured, "validation images on which its maps are measured"),
    )


@contextmanager
def _folder(study: _Study, name: str) -> Iterator[Path]:
    """Where a run's filtered images lie while they are needed, or for good."""
    if study.keep:
        yield study.out / "filtered" / name
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def _write_filtered(study: _Study, classifier: Classifier, folder: Path) -> dict[str, Any]:
    """Write the images multiplied by their maps and, for each seed, by masks; what masks say of the maps."""
    facts = filter_by_maps(classifier, study.images, study.settings, folder, study.progress)
    if facts["black"]:
        count = len(study.images.data.samples)
        study.say(f"{facts['black']} of {count} maps are all zero; their filtered images are black")
    if study.images.masks:
        filter_by_masks(classifier, study.images, study.splits, folder)
    return facts


def _train(study: _Study, classifier: Classifier, kind: str, seed: int, place: Path, folder: Path) -> None:
    """Train the run's architecture anew on one kind of images; the weights it ends with are not kept."""
    parts = study.splits[seed]
    if kind != "original":
        images = folder / (kind if kind == "cam" else f"{kind}-{seed}")
        parts = _moved(parts[0], images), _moved(parts[1], images)
    torch.manual_seed(seed)
    settings, untrained = study.settings, _untrained(classifier, study.settings)
    recipe = TrainSettings(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_epochs=int(settings.weights is not None),
        seed=seed,
    )
    train_classifier(untrained, *parts, place, recipe, device=study.device, progress=study.progress)
    (place / "model.safetensors").unlink()


def _untrained(classifier: Classifier, settings: AuditSettings) -> Classifier:
    return Classifier.create(**_architecture(classifier, settings), weights=settings.weights)


def _architecture(classifier: Classifier, settings: AuditSettings) -> dict[str, Any]:
    """What ``Classifier.create`` needs to build a run's architecture with its preprocessing anew.

    Negative classes are left out: no training looks at them.
    """
    names = ("arch", "classes", "resize", "window", "mean", "std", "image_size", "model_args")
    facts = {name: getattr(classifier, name) for name in names}
    if settings.image_size in (None, classifier.image_size):
        return facts
    # An architecture that fixes the size of its inputs is told the other one by ``create``.
    args = {key: value for key, value in classifier.model_args.items() if key != "img_size"}
    return {**facts, "image_size": settings.image_size, "model_args": args}


def _moved(part: Dataset, folder: Path) -> Dataset:
    """The same samples with their images in another folder."""
    samples = (replace(sample, path=folder / f"{sample.name}.png") for sample in part.samples)
    return replace(part, samples=tuple(samples))


# ---- what is reported ----------------------------------------------------------------------------


def _over_seeds(values: Sequence[float], share: float) -> Estimate:
    """The mean and its interval; ``share``: validation images per training image."""
    low, high = overlapping_splits_interval(values, share) or (None, None)
    return Estimate(mean=float(np.mean(values)), low=low, high=high, count=len(values))


def _over_images(study: _Study, values: Mapping[str, float]) -> Estimate:
    low, high = study.images.interval(values)
    return Estimate(mean=float(np.mean(list(values.values()))), low=low, high=high, count=len(values))
