"""Trainings as data: recipe, options and images -> a classifier run, which can be repeated from what it stores."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from camseg.base.device import find_device
from camseg.base.errors import CamsegError, CheckpointError, DatasetError, InputError, first_line
from camseg.base.files import read_json, sha256
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.registry import choose
from camseg.base.settings import from_json, to_json
from camseg.classify.classifier import Classifier
from camseg.classify.network import FedNetwork
from camseg.data.datasets import Dataset, image_places
from camseg.data.labels import negative_hint
from camseg.data.remarks import data_remarks, unreadable
from camseg.models.building import has_pretrained
from camseg.models.names import DEFAULT_ARCH
from camseg.models.weights import head_parameters
from camseg.runs.loop import check_apart
from camseg.train.course import check_run_folder
from camseg.train.features import FeatureCache, check_can_keep
from camseg.train.freezing import HeadOf, freeze_others, learning_parameters
from camseg.train.parts import training_parts
from camseg.train.recipes import RECIPES
from camseg.train.settings import Training, TrainSettings
from camseg.train.trainer import train_classifier

T = TypeVar("T", bound=Training)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A training that only has to be run."""

    training: Training
    """With the hashes of its images and of its weights file."""
    classifier: Classifier
    """Untrained, on the CPU."""
    train: Dataset
    """Images to learn from."""
    val: Dataset
    """Images that decide when to stop, and calibrate."""
    test: Dataset | None
    """Images that decide nothing."""

    def remarks(self) -> list[str]:
        """Lines on the images and classes where they may not be what was meant, to be said before the training."""
        parts = [part for part in (self.train, self.val, self.test) if part is not None]
        samples = tuple(sample for part in parts for sample in part.samples)
        lines = data_remarks(replace(self.train, samples=samples), self.classifier.window)
        hint = negative_hint(self.classifier.classes, self.classifier.negative)
        return [*lines, *([hint] if hint else [])]


def plan_training(
    data: Path | str | None = None,
    *,
    recipe: str | None = None,
    like: Path | str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Training:
    """A recipe's training (None: ``default``), or that of an earlier run, with ``changes``.

    ``changes``: fields of ``Training`` and ``TrainSettings`` by name; those of ``augmentation`` as a mapping, or all
    of it as an ``Augmentation``. ``data`` None is the earlier run's. ``weights`` None is ImageNet where there are such
    weights of the architecture, else none. A network that starts from scratch has nothing worth freezing: there a
    recipe's warm-up and frozen stages are left out, unless ``changes`` ask for them.

    Raises InputError for names that there are not, and CheckpointError for a run that does not say how it was trained.
    """

    def base() -> Training:
        return choose("recipe", recipe or "default", RECIPES).training if like is None else read_training(like)

    return planned(
        Training,
        data,
        base=base,
        recipe=recipe,
        like=like,
        changes=changes,
        start=lambda weights, model: starting_weights(weights, has_pretrained(model or DEFAULT_ARCH)),
        places=("val",),
    )


def planned(
    kind: type[T],
    data: Path | str | None,
    *,
    base: Callable[[], T],
    recipe: str | None,
    like: Path | str | None,
    changes: Mapping[str, Any] | None,
    start: Callable[[str | None, str | None], str],
    places: Sequence[str],
) -> T:
    """``plan_training`` of any kind of training.

    ``base``: gives that of the recipe or the run; ``start``: the weights to start from, of what is asked for and the
    model; ``places``: fields that are paths. Raises what ``plan_training`` does.
    """
    changes = dict(changes or {})
    if like is not None and recipe is not None:
        raise InputError("expected a recipe or a run to be like, not both; a run already has its recipe's values")
    settings_kind = type(kind().settings)
    known = {item.name for one in (kind, settings_kind) for item in fields(one)} - {"data", "recipe", "settings"}
    if unknown := sorted(changes.keys() - known):
        raise InputError(f"a training has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
    if like is None and data is None:
        raise InputError("expected labelled images to train from, or a run to be like")
    origin = base()
    settings = {name: changes.pop(name) for name in [item.name for item in fields(settings_kind)] if name in changes}
    if "val_fraction" in changes:
        changes.setdefault("val", None)
    if "val" in changes:
        changes.setdefault("fold", None)
    if like is None or "model" in changes or "weights" in changes:
        changes["weights"] = start(changes.get("weights"), changes.get("model", origin.model))
        changes["weights_sha256"] = None
        if changes["weights"] == "none":
            settings = {"warmup_epochs": 0, "trainable": "all", **settings}
    for name, value in settings.items():  # of bundles of settings a mapping changes a part
        if isinstance(value, Mapping):
            settings[name] = replace(getattr(origin.settings, name), **value)
    for name in places:
        if changes.get(name) is not None:
            changes[name] = os.path.abspath(changes[name])
    if data is not None or any(changes.get(name, getattr(origin, name)) != getattr(origin, name) for name in places):
        changes["samples_sha256"] = None  # what is there now is meant
    place = origin.data if data is None else os.path.abspath(data)
    return replace(origin, **changes, data=place, settings=replace(origin.settings, **settings))


def read_training(run: Path | str) -> Training:
    """What a run was trained from, of its ``classifier.json``; CheckpointError where it does not say."""
    return training_of_run(Training, Path(run, Classifier.FILE))


def training_of_run(kind: type[T], file: Path) -> T:
    """What a run's file of settings says of its training; CheckpointError where it does not."""
    facts = read_json(file, CheckpointError)
    return _from_record(kind, facts.get("training") if isinstance(facts, dict) else None, str(file))


def trained_on(classifier: Classifier) -> tuple[set[str], set[str]] | None:
    """Where the images lie that a classifier learned from, and those it was validated on, as ``image_places``.

    None where it does not say, or other images are there now.
    """
    try:
        train, val, _, _ = training_parts(_from_record(Training, classifier.training, classifier.arch))
    except CamsegError:
        return None
    return image_places(train), image_places(val)


def _from_record(kind: type[T], record: object, path: str) -> T:
    if not isinstance(record, Mapping) or "data" not in record:
        raise CheckpointError(
            f"{path} does not say what it was trained from, as runs that camseg trained do; give images and the options"
        )
    names = [item.name for item in fields(kind)]
    later = {"fold": None, "split_seed": None, "per_class": False}  # which runs of before do not state
    try:
        return from_json(kind, {name: {**later, **record}[name] for name in names})
    except (KeyError, InputError) as error:
        raise CheckpointError(f"{path}: its training cannot be repeated ({error})") from None


def prepare_training(training: Training, out: Path | str) -> Prepared:
    """Read and split the images, and create the classifier, for a run in the folder ``out``; writes nothing.

    Raises what loading, splitting and creating do, and InputError for images or a weights file that are no longer the
    same.
    """
    train, val, test, samples = training_parts(training)
    for part in (train, val):
        check_apart(part, Path(out))
    _check_empty_labels([train, val, *([test] if test else ())], training)
    torch.manual_seed(training.settings.seed)
    classifier = Classifier.create(
        training.model,
        classes=train.classes,
        image_size=training.image_size,
        weights=training.weights,
        multi_label=train.multi_label,
        negative=training.negative,
        resize=training.resize,
        window=training.window,
        mean=training.mean,
        std=training.std,
        model_args=training.model_args,
    )
    training = with_weights_hash(replace(training, samples_sha256=samples))
    check_batches(classifier, training.settings, len(train.samples))
    return Prepared(training=training, classifier=classifier, train=train, val=val, test=test)


def with_weights_hash(training: T) -> T:
    """The training with the hash of its file of weights; InputError where that is not the file it was."""
    if training.weights in ("none", "imagenet"):
        return training
    found = sha256(training.weights)
    if training.weights_sha256 not in (None, found):
        raise InputError(f"{training.weights} is not the file it was; give the weights with --weights")
    return replace(training, weights_sha256=found)


def check_batches(network: FedNetwork, settings: TrainSettings, images: int, head_of: HeadOf = head_parameters) -> None:
    """InputError where single images would be learned from by a network whose batch norms then have no spread."""
    if min(settings.batch_size, images) > 1:
        return
    side = network.image_size
    model = copy.deepcopy(network.model)  # batch norms keep what they have seen
    freeze_others(model, learning_parameters(model, settings.trainable, head_of))
    try:
        model(torch.zeros(1, 3, side, side))
    except ValueError as error:
        raise InputError(
            f"{network.arch} needs at least 2 images per batch at {side} pixels ({first_line(error)}); got "
            f"--batch-size {settings.batch_size} and {images} training image{'s' * (images != 1)}; give more"
        ) from None


def _check_empty_labels(parts: Sequence[Dataset], training: Training) -> None:
    """Raise DatasetError where images without a label alone make a set multi-label that has a negative class."""
    samples = [sample for part in parts for sample in part.samples]
    none = [sample for sample in samples if not sample.labels]
    if training.negative and none and all(len(sample.labels or ()) < 2 for sample in samples):
        raise DatasetError(
            f"{training.data}: {len(none)} of {len(samples)} images have no label, the first is {none[0].path}, and "
            f"{training.negative[0]!r} stands for images without an object; label them, or leave out their rows"
        )


def check_trainable(prepared: Prepared) -> None:
    """Raise InputError where the network has not the parts that the settings would train."""
    settings = prepared.training.settings
    learning_parameters(prepared.classifier.model, settings.trainable)
    if settings.feature_views:
        check_can_keep(prepared.classifier.model, settings.trainable)


def try_training(
    prepared: Prepared, out: Path | str, *, device: str = "auto", overwrite: bool = False
) -> dict[Path, str]:
    """The images that ``run_training`` would leave out, with the reason, as far as their first bytes tell.

    Writes nothing. Raises what ``run_training`` would before its first epoch.
    """
    check_run_folder(Path(out), overwrite=overwrite)
    find_device(device)
    check_trainable(prepared)
    found: dict[Path, str] = {}
    for part in (prepared.train, prepared.val, prepared.test):
        if part is not None:
            reasons = unreadable(sample.path for sample in part.samples)
            if len(reasons) == len(part.samples):
                first = next(iter(reasons.values()))
                raise DatasetError(f"none of {len(reasons)} images can be read; the first: {first}")
            found |= reasons
    return found


def run_training(
    prepared: Prepared,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
    cache: FeatureCache | None = None,
) -> dict[str, Any]:
    """``train_classifier`` on what was prepared; the run's ``classifier.json`` then says how to repeat it."""
    return train_classifier(
        prepared.classifier,
        prepared.train,
        prepared.val,
        out,
        prepared.training.settings,
        test=prepared.test,
        origin=origin_of(prepared.training),
        device=device,
        overwrite=overwrite,
        progress=progress,
        say=say,
        cache=cache,
    )


def origin_of(training: Training) -> dict[str, Any]:
    """What a run's file says of its training beside the settings, from which it can be repeated: JSON values."""
    return {name: value for name, value in to_json(training).items() if name != "settings"}


def starting_weights(given: str | None, pretrained: bool) -> str:
    """``imagenet``, ``none`` or an absolute path; without a wish ImageNet's where timm has such."""
    if given is None:
        return "imagenet" if pretrained else "none"
    return given if given in ("imagenet", "none") else os.path.abspath(given)
