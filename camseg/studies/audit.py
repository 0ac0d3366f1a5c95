"""What did the classifier look at? Its architecture is trained again on images which show only that, or all but that.

The second experiment of Guan and Loew, "A sneak attack on segmentation of medical images using deep neural network
classifiers" (AIPR 2021, arXiv:2201.02771), with repeats, and beside it the measures of ``faithfulness``.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camseg.arrays import Image, Mask, check_same_size
from camseg.cams import compute_cams
from camseg.cams.methods import check_methods
from camseg.classifier import Classifier, load_network
from camseg.datasets import Dataset, Sample, load_training_data, split
from camseg.errors import DatasetError, EvaluationError, InputError
from camseg.faithfulness import (
    confidence_drop,
    confidence_rises,
    confidences,
    deletion_curve,
    filter_image,
    insertion_curve,
    pointing_hit,
)
from camseg.files import contents_sha256, read_json, write_json
from camseg.folders import check_apart
from camseg.images import find_images, read_image, read_mask, relative_name, write_image
from camseg.metrics import bootstrap_interval, mean_dice
from camseg.progress import Progress, Say, silent, unheard
from camseg.results import Output, Run, check_names
from camseg.studies.audit_report import FILTERS, MEASURES, Audit, Estimate, RunAudit, write_audit
from camseg.training import TrainSettings, train_classifier


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """How runs are audited; checked when made."""

    method: str = "layercam"
    """The CAM method."""
    epochs: int = 30
    """Most epochs of each training."""
    seeds: int = 3
    """How often each training is repeated, each time with another split, other weights and another order."""
    seed: int = 0
    """The first of the seeds."""
    val_fraction: float = 0.2
    """Share of the images that is split off for validation, never through a group."""
    batch_size: int = 16
    """Images per step, and per pass of the network."""
    learning_rate: float = 1e-3
    """The optimiser's rate at the start."""
    image_size: int | None = None
    """Side of the inputs of the networks trained again; None: the run's own."""
    weights: str | None = None
    """Where they start, as in ``Classifier.create``; None: from scratch, as in the paper."""
    steps: int = 50
    """Steps of the insertion and deletion curves."""

    def __post_init__(self) -> None:
        check_methods((self.method,))
        for name in ("epochs", "seeds", "batch_size", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} of at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What is the same for every run."""

    data: Dataset
    splits: tuple[tuple[Dataset, Dataset], ...]  # one for each seed
    masks: Mapping[str, Path] | None  # by the images' names
    settings: AuditSettings
    out: Path
    keep: bool  # the filtered images
    device: str
    progress: Progress
    say: Say

    @property
    def filters(self) -> list[str]:
        return [name for name in FILTERS if self.masks is not None or name in ("original", "cam")]


def audit_runs(
    runs: Sequence[Path | str],
    data: Path | str,
    out: Path | str,
    *,
    masks: Path | str | None = None,
    settings: AuditSettings | None = None,
    keep_filtered: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> Audit:
    """Audit classifier runs on labelled images; write ``audit.json``, ``.csv``, ``.md`` and, with masks, ``.png``.

    data: a folder of class folders, or a CSV, as for training; masks: true masks of the same relative names; a class
    that is negative for one of the runs needs none. For each run and seed its architecture is trained on each of
    ``FILTERS``; runs of equal architecture and preprocessing share the trainings that do not depend on their maps.
    A training that is finished is kept in ``out``, without its weights, and not repeated. ``keep_filtered`` leaves
    the filtered images in ``out/filtered``.

    Raises InputError or DatasetError for images, classes or runs that do not fit; EvaluationError for masks that are
    missing or of another size; OutputError when ``out`` holds another audit.
    """
    settings, out = settings or AuditSettings(), Path(out)
    dataset = load_training_data(data)
    if dataset.multi_label:
        raise DatasetError(f"{data}: an audit needs images with one class each; some have several, or none")
    check_apart(dataset, out)
    check_names((sample.name, sample.path) for sample in dataset.samples)
    classifiers = _load(runs, dataset, device)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    negative = {name for classifier in classifiers.values() for name in classifier.negative}
    study = _Study(
        data=dataset,
        splits=tuple(split(dataset, settings.val_fraction, seed) for seed in seeds),
        masks=None if masks is None else _find_masks(dataset, Path(masks), negative),
        settings=settings,
        out=out,
        keep=keep_filtered,
        device=device,
        progress=progress,
        say=say,
    )
    samples = [[sample.name, sample.labels, sample.group] for sample in dataset.samples]
    chosen = {name: value for name, value in asdict(settings).items() if name not in ("seed", "seeds")}
    judged = study.masks or {}
    files = [path for one in dataset.samples for path in (one.path, judged.get(one.name)) if path is not None]
    facts = {
        "data": str(data),
        "samples": _digest(samples),
        "masks": None if masks is None else str(masks),
        "contents": contents_sha256(files)[:12],
        **chosen,
    }
    output = Output(out, Run(command="audit", settings=facts), overwrite=overwrite)
    if overwrite:
        for part in ("trainings", "maps", "filtered"):
            shutil.rmtree(output.folder / part, ignore_errors=True)
    labels = [label for sample in dataset.samples for label in sample.labels or ()]
    found = Audit(
        data=str(data),
        images=len(labels),
        masks=None if masks is None else str(masks),
        majority=max(map(labels.count, dataset.classes)) / len(labels),
        settings=settings,
        runs=tuple(
            _audit(study, name, Path(run), classifier)
            for (name, classifier), run in zip(classifiers.items(), runs, strict=True)
        ),
    )
    write_audit(out, found)
    return found


def _load(runs: Sequence[Path | str], data: Dataset, device: str) -> dict[str, Classifier]:
    """The classifiers by the shortest names that tell their folders apart."""
    places = [Path(run).resolve() for run in runs]
    if not runs or len(set(places)) < len(places):
        raise InputError(f"expected different runs, at least one; got {', '.join(map(str, runs)) or 'none'}")
    depth = next(n for n in range(1, 1 + max(len(place.parts) for place in places)) if _distinct(places, n))
    classifiers = {"/".join(place.parts[-depth:]): load_network(place, device) for place in places}
    for name, classifier in classifiers.items():
        if classifier.multi_label or set(classifier.classes) != set(data.classes):
            kind = "independent classes" if classifier.multi_label else "the classes"
            raise InputError(
                f"run {name} tells {kind} {', '.join(classifier.classes)} apart, and {data.root} holds "
                f"{', '.join(data.classes)}; audit a run on images of its own classes, one each"
            )
    return classifiers


def _distinct(places: Sequence[Path], depth: int) -> bool:
    return len({place.parts[-depth:] for place in places}) == len(places)


def _find_masks(data: Dataset, folder: Path, negative: set[str]) -> dict[str, Path]:
    """The true masks by name; EvaluationError where one is missing that a class with objects needs."""
    found = find_images(folder)
    masks = {relative_name(path, found.root): path for path in found.files}
    needed = [sample.name for sample in data.samples if not negative.intersection(sample.labels or ())]
    if missing := [name for name in needed if name not in masks]:
        raise EvaluationError(
            f"expected a true mask in {folder} for each of the {len(needed)} images that may hold an object; "
            f"{len(missing)} are missing, the first is {missing[0]}; add them, or leave --masks out"
        )
    return masks


def _audit(study: _Study, name: str, run: Path, classifier: Classifier) -> RunAudit:
    """The trainings and the measures of one run, what an earlier call finished taken from its files."""
    own, shared = classifier.fingerprint()[:12], _digest(_architecture(classifier, study.settings))
    seeds = range(study.settings.seed, study.settings.seed + study.settings.seeds)
    trainings = study.out / "trainings"
    places = {
        (kind, seed): trainings / f"{classifier.arch}-{own if kind == 'cam' else shared}" / kind / str(seed)
        for seed in seeds
        for kind in study.filters
    }
    # The measures are of the first split, which another first seed would change.
    maps_file = study.out / "maps" / f"{classifier.arch}-{own}-{study.settings.seed}.json"
    accuracies: dict[str, list[float]] = {kind: [] for kind in study.filters}
    with _folder(study, name) as folder:
        todo = [place for place in places.values() if not (place / "metrics.json").exists()]
        if todo or study.keep or not maps_file.exists():
            facts = _write_filtered(study, classifier, folder)
            if not maps_file.exists():
                write_json(maps_file, {**facts, **_measure(study, classifier)})
        for (kind, seed), place in places.items():
            if not (place / "metrics.json").exists():
                study.say(f"{name}: training {todo.index(place) + 1} of {len(todo)}, {kind}, seed {seed}")
                _train(study, classifier, kind, seed, place, folder)
            accuracies[kind].append(float(read_json(place / "metrics.json", InputError)["accuracy"]))
    maps = read_json(maps_file, InputError)
    groups = {sample.name: sample.group or sample.name for sample in study.data.samples}
    estimate = partial(_over_images, groups=groups)
    return RunAudit(
        name=name,
        run=str(run),
        arch=classifier.arch,
        accuracies={kind: _over_seeds(values) for kind, values in accuracies.items()},
        by_seed={kind: tuple(values) for kind, values in accuracies.items()},
        mean_dice=estimate(maps["mean_dice"]) if maps["mean_dice"] else None,
        measures={measure: estimate(maps[measure]) for measure in MEASURES if maps[measure]},
        black=maps["black"],
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
    dices: dict[str, float] = {}
    hits: dict[str, float] = {}
    objects: dict[str, Mask] = {}
    black, samples, step = 0, study.data.samples, study.settings.batch_size
    starts = range(0, len(samples), step)
    for start in study.progress(starts, len(starts), "maps"):
        batch = samples[start : start + step]
        images = [read_image(sample.path, classifier.window) for sample in batch]
        for sample, image, cam in zip(batch, images, _cams(study, classifier, batch, images), strict=True):
            black += not cam.any()
            write_image(folder / f"cam/{sample.name}.png", filter_image(image, cam))
            mask = _true_mask(study, sample, image)
            if mask is not None:
                objects[sample.name] = mask
                dices[sample.name] = mean_dice(cam, mask)
                hits[sample.name] = float(pointing_hit(cam, mask))
    if black:
        study.say(f"{black} of {len(samples)} maps are all zero; their filtered images are black")
    if study.masks is not None:
        for number, parts in enumerate(study.splits):
            for side, part in enumerate(parts):
                _write_masked(study, classifier, folder, part, objects, (study.settings.seed + number, side))
    return {"mean_dice": dices, "pointing_game": hits, "black": black}


def _cams(study: _Study, classifier: Classifier, samples: Sequence[Sample], images: Sequence[Image]) -> list:
    """The ungated map of each image's own class."""
    method = study.settings.method
    return compute_cams(classifier, images, [_label(sample) for sample in samples], (method,), gate=False)[method]


def _write_masked(
    study: _Study,
    classifier: Classifier,
    folder: Path,
    part: Dataset,
    objects: Mapping[str, Mask],
    seed: tuple[int, int],
) -> None:
    """Write one side of a split multiplied by its true masks and by what they leave, borrowed on the same side."""
    random = np.random.default_rng(seed)
    lenders = [sample.name for sample in part.samples if sample.name in objects]
    if not lenders:
        raise EvaluationError("expected true masks with objects on both sides of the split; all are empty on one")
    for sample in part.samples:
        mask = objects.get(sample.name)
        image = read_image(sample.path, classifier.window)
        if mask is None:
            mask = _fitted(objects[lenders[random.integers(len(lenders))]], image)
        for kind, weights in (("truth", mask), ("inverse", ~mask)):
            write_image(folder / f"{kind}-{seed[0]}/{sample.name}.png", filter_image(image, weights))


def _true_mask(study: _Study, sample: Sample, image: Image) -> Mask | None:
    """The true mask of an image with an object, else None."""
    if study.masks is None or sample.name not in study.masks:
        return None
    mask = read_mask(study.masks[sample.name])
    try:
        check_same_size(image, mask, f"the image {sample.name} and its true mask")
    except InputError as error:
        raise EvaluationError(str(error)) from None
    return mask if mask.any() else None


def _fitted(mask: Mask, image: Image) -> Mask:
    """A borrowed mask brought to the size of another image by the nearest pixels."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(image.shape, mask.shape, strict=False))
    return mask[np.ix_(rows, columns)]


def _train(study: _Study, classifier: Classifier, kind: str, seed: int, place: Path, folder: Path) -> None:
    """Train the run's architecture anew on one kind of images; the weights it ends with are not kept."""
    settings = study.settings
    parts = study.splits[seed - settings.seed]
    if kind != "original":
        images = folder / (kind if kind == "cam" else f"{kind}-{seed}")
        parts = _moved(parts[0], images), _moved(parts[1], images)
    torch.manual_seed(seed)
    untrained = Classifier.create(**_architecture(classifier, settings), weights=settings.weights)
    recipe = TrainSettings(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_epochs=int(settings.weights not in (None, "none")),
        seed=seed,
    )
    train_classifier(untrained, *parts, place, recipe, device=study.device, progress=study.progress)
    (place / "model.safetensors").unlink()


def _architecture(classifier: Classifier, settings: AuditSettings) -> dict[str, Any]:
    """What ``Classifier.create`` needs to build a run's architecture with its preprocessing anew."""
    names = ("arch", "classes", "negative", "resize", "window", "mean", "std", "image_size", "model_args")
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


def _measure(study: _Study, classifier: Classifier) -> dict[str, dict[str, float]]:
    """The measures without masks on the validation images of the first split, as the network sees them."""
    found: dict[str, dict[str, float]] = {name: {} for name in ("insertion", "deletion", "average_drop", "increase")}
    size, steps = study.settings.batch_size, study.settings.steps
    samples = study.splits[0][1].samples
    for sample in study.progress(samples, len(samples), "measures"):
        square = classifier.to_input(read_image(sample.path, classifier.window))
        cam = _cams(study, classifier, [sample], [square])[0]
        score = partial(_scores, classifier, classifier.class_index(_label(sample)))
        mean = 255 * np.asarray(classifier.mean)
        deletion = deletion_curve(score, square, cam, baseline=mean, steps=steps, batch_size=size)
        pair = confidences(score, square, cam)
        found["insertion"][sample.name] = insertion_curve(score, square, cam, steps=steps, batch_size=size).area
        found["deletion"][sample.name] = deletion.area
        found["average_drop"][sample.name] = confidence_drop(*pair)
        found["increase"][sample.name] = float(confidence_rises(*pair))
    return found


def _scores(classifier: Classifier, target: int, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits = classifier.model(classifier.normalise(torch.from_numpy(images)))
    return classifier.probabilities(logits)[:, target].cpu().numpy()


def _label(sample: Sample) -> str:
    (label,) = sample.labels or ()
    return label


def _over_seeds(values: Sequence[float]) -> Estimate:
    """The mean and Student's t-interval within [0, 1]; equal values, or one, say nothing of how far they spread."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if min(values) == max(values):
        return Estimate(mean=mean, count=count)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Estimate(mean=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), count=count)


def _over_images(values: Mapping[str, float], groups: Mapping[str, str]) -> Estimate:
    """The mean and its bootstrap interval, images of one group drawn together."""
    low, high = bootstrap_interval(list(values.values()), groups=[groups[name] for name in values])
    return Estimate(mean=float(np.mean(list(values.values()))), low=low, high=high, count=len(values))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
