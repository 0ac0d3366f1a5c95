"""Trainings as data: recipe, options and images -> a classifier run, which can be repeated from what it stores."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from camseg.base.errors import CamsegError, CheckpointError, InputError
from camseg.base.files import read_json, sha256
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.classify.classifier import Classifier
from camseg.classify.settings import Resize
from camseg.data.augmentation import Augmentation
from camseg.data.datasets import Dataset, check_disjoint, image_places, load_training_data, samples_sha256, split
from camseg.models.building import has_pretrained
from camseg.models.names import DEFAULT_ARCH, ModelArgs
from camseg.runs.loop import check_apart
from camseg.train.recipes import RECIPES
from camseg.train.trainer import TrainSettings, train_classifier

_LISTS = ("negative", "mean", "std")
_TEXTS = {
    "data": False,
    "val": True,
    "samples_sha256": True,
    "model": True,
    "weights": False,
    "weights_sha256": True,
    "window": False,
}
"""Fields of a training that are text, and whether they may be None."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that a run is trained from: the same training on the same device gives the same weights.

    Checked when made, as far as it can be without the data and the network: InputError.
    """

    data: str
    """Labelled images, as ``datasets.load_training_data`` takes them; an absolute path."""
    val: str | None = None
    """Validation images; None: split off from ``data``."""
    val_fraction: float = 0.2
    """Share that is split off for validation."""
    test_fraction: float = 0.0
    """Share that is split off before that, takes no part in training and is scored at its end."""
    samples_sha256: str | None = None
    """Hash of the images' names, labels and groups; None: not known yet."""
    recipe: str = "default"
    """Where all that follows came from, before options changed it."""
    model: str | None = None
    """Architecture; None: the weights file's, else ``DEFAULT_ARCH``."""
    model_args: ModelArgs = field(default_factory=dict)
    """Further arguments of its constructor."""
    weights: str = "none"
    """``imagenet``, ``none``, or the absolute path of a file."""
    weights_sha256: str | None = None
    """The file's hash; None: not known yet."""
    negative: tuple[str, ...] = ()
    """Classes whose images contain no object."""
    image_size: int | None = None
    """Side of the input, pixels; None: what the architecture was described for."""
    resize: Resize = "stretch"
    """How images become squares."""
    window: str = "full"
    """How 16-bit and float images become 8-bit."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean of the inputs; None: the weights' own."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation of the inputs; None: the weights' own."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    """How the network learns."""

    def __post_init__(self) -> None:
        for name, optional in _TEXTS.items():
            value = getattr(self, name)
            if not (isinstance(value, str) or (optional and value is None)):
                raise InputError(f"expected {name} as text, got {value!r}")
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise InputError(f"expected {name} in [0, 1), got {value!r}")
        if not isinstance(self.model_args, Mapping):
            raise InputError(f"expected model_args by name, got {self.model_args!r}")


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
    changes = dict(changes or {})
    if like is not None and recipe is not None:
        raise InputError("expected a recipe or a run to be like, not both; a run already has its recipe's values")
    known = {item.name for kind in (Training, TrainSettings) for item in fields(kind)} - {"data", "recipe", "settings"}
    if unknown := sorted(changes.keys() - known):
        raise InputError(f"a training has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
    if like is None and data is None:
        raise InputError("expected labelled images to train from, or a run to be like")
    base = _from_recipe(recipe or "default") if like is None else read_training(like)
    settings = {name: changes.pop(name) for name in [item.name for item in fields(TrainSettings)] if name in changes}
    if "val_fraction" in changes:
        changes.setdefault("val", None)
    if like is None or "model" in changes or "weights" in changes:
        changes["weights"] = _weights(changes.get("weights"), changes.get("model", base.model))
        changes["weights_sha256"] = None
        if changes["weights"] == "none":
            settings = {"warmup_epochs": 0, "trainable": "all", **settings}
    if isinstance(settings.get("augmentation"), Mapping):
        settings["augmentation"] = _augmentation(base.settings.augmentation, settings["augmentation"])
    if changes.get("val") is not None:
        changes["val"] = os.path.abspath(changes["val"])
    if data is not None or changes.get("val", base.val) != base.val:
        changes["samples_sha256"] = None  # what is there now is meant
    place = base.data if data is None else os.path.abspath(data)
    return replace(base, **changes, data=place, settings=replace(base.settings, **settings))


def read_training(run: Path | str) -> Training:
    """What a run was trained from, of its ``classifier.json``; CheckpointError where it does not say."""
    path = Path(run, "classifier.json")
    facts = read_json(path, CheckpointError)
    return _from_record(facts.get("training") if isinstance(facts, dict) else None, str(path))


def trained_on(classifier: Classifier) -> tuple[set[str], set[str]] | None:
    """Where the images lie that a classifier learned from, and those it was validated on, as ``image_places``.

    None where it does not say, or other images are there now.
    """
    try:
        train, val, _, _ = _parts(_from_record(classifier.training, classifier.arch))
    except CamsegError:
        return None
    return image_places(train), image_places(val)


def _from_record(record: object, path: str) -> Training:
    if not isinstance(record, Mapping) or "data" not in record:
        raise CheckpointError(
            f"{path} does not say what it was trained from, as runs of camseg train-cls do; give DATA and the options"
        )
    try:
        settings = dict(record["settings"])
        settings["augmentation"] = Augmentation(**settings["augmentation"])
        given = {item.name: record[item.name] for item in fields(Training)}
        lists = {name: _list(given[name], name) for name in _LISTS}
        return Training(**{**given, **lists, "settings": TrainSettings(**settings)})
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise CheckpointError(f"{path}: its training cannot be repeated ({error})") from None


def _list(value: object, name: str) -> tuple | None:
    if value is not None and not isinstance(value, (list, tuple)):
        raise InputError(f"expected {name} as a list, got {value!r}")
    return None if value is None else tuple(value)


def prepare_training(training: Training, out: Path | str) -> Prepared:
    """Read and split the images, and create the classifier, for a run in the folder ``out``; writes nothing.

    Raises what loading, splitting and creating do, and InputError for images or a weights file that are no longer the
    same.
    """
    train, val, test, samples = _parts(training)
    for part in (train, val):
        check_apart(part, Path(out))
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
    training = replace(training, samples_sha256=samples)
    if training.weights not in ("none", "imagenet"):
        found = sha256(training.weights)
        if training.weights_sha256 not in (None, found):
            raise InputError(f"{training.weights} is not the file it was; give the weights with --weights")
        training = replace(training, weights_sha256=found)
    return Prepared(training=training, classifier=classifier, train=train, val=val, test=test)


def load_parts(
    data: Path | str, *, val: Path | str | None, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Dataset, Dataset, Dataset | None]:
    """The images to learn from, those for validation, and those for the test where a share is split off for it.

    The same images, fractions and seed give the same parts. Raises what loading and splitting do, and DatasetError
    for validation images that ``data`` has too.
    """
    dataset = load_training_data(data)
    rest, test = split(dataset, test_fraction, seed) if test_fraction else (dataset, None)
    if val is None:
        return *split(rest, val_fraction, seed), test
    held = load_training_data(val)
    check_disjoint(dataset, held)
    return rest, held, test


def _parts(training: Training) -> tuple[Dataset, Dataset, Dataset | None, str]:
    """The parts of a training's images, and the hash of them all; InputError where they are not those of the run."""
    train, val, test = load_parts(
        training.data,
        val=training.val,
        val_fraction=training.val_fraction,
        test_fraction=training.test_fraction,
        seed=training.settings.seed,
    )
    found = samples_sha256(train, val, *([test] if test else ()))
    if training.samples_sha256 not in (None, found):
        raise InputError(f"{training.data} has other images, labels or groups than then; name DATA to train on these")
    return train, val, test, found


def run_training(
    prepared: Prepared,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> dict[str, Any]:
    """``train_classifier`` on what was prepared; the run's ``classifier.json`` then says how to repeat it."""
    origin = {name: value for name, value in asdict(prepared.training).items() if name != "settings"}
    return train_classifier(
        prepared.classifier,
        prepared.train,
        prepared.val,
        out,
        prepared.training.settings,
        test=prepared.test,
        origin=origin,
        device=device,
        overwrite=overwrite,
        progress=progress,
        say=say,
    )


def _from_recipe(name: str) -> Training:
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    return Training(
        data="",
        val_fraction=recipe.val_fraction,
        test_fraction=recipe.test_fraction,
        recipe=name,
        image_size=recipe.image_size,
        resize=recipe.resize,
        settings=recipe.settings,
    )


def _weights(given: str | None, model: str | None) -> str:
    """``imagenet``, ``none`` or an absolute path; without a wish ImageNet's where timm has such."""
    if given is None:
        return "imagenet" if has_pretrained(model or DEFAULT_ARCH) else "none"
    return given if given in ("imagenet", "none") else os.path.abspath(given)


def _augmentation(base: Augmentation, changes: Mapping[str, Any]) -> Augmentation:
    known = [item.name for item in fields(Augmentation)]
    if unknown := sorted(set(changes) - set(known)):
        raise InputError(f"there is no augmentation {unknown[0]!r}; there are {', '.join(known)}")
    return replace(base, **changes)
