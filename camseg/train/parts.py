"""The images of a training: those to learn from, for validation and for the test, the same whenever it is repeated."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from camseg.base.errors import DatasetError, InputError
from camseg.data.datasets import Dataset, load_training_data, samples_sha256
from camseg.data.splits import check_disjoint, fold, own_parts, split
from camseg.train.settings import Training

Load: TypeAlias = Callable[[Path | str, Sequence[str] | None], Dataset]
"""Images and the classes that their labels must be of, or None -> a dataset."""


def training_parts(
    training: Training, *, load: Load = load_training_data, labelled: bool = True, called: str = "DATA"
) -> tuple[Dataset, Dataset, Dataset | None, str]:
    """The parts of a training's images, and the hash of them all.

    ``load`` and ``labelled`` as in ``load_parts``; ``called``: what a command calls the images. Raises InputError where
    they are not those of the run, and what ``load_parts`` does.
    """
    train, val, test = load_parts(
        training.data,
        val=training.val,
        val_fraction=training.val_fraction,
        test_fraction=training.test_fraction,
        seed=training.settings.seed if training.split_seed is None else training.split_seed,
        numbered=training.fold,
        load=load,
        labelled=labelled,
    )
    found = samples_sha256(train, val, *([test] if test else ()))
    if training.samples_sha256 not in (None, found):
        raise InputError(
            f"{training.data} has other images, labels or groups than then; name {called} to train on these"
        )
    return train, val, test, found


def load_parts(
    data: Path | str,
    *,
    val: Path | str | None,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    numbered: tuple[int, int] | None = None,
    load: Load = load_training_data,
    labelled: bool = True,
) -> tuple[Dataset, Dataset, Dataset | None]:
    """The images to learn from, those for validation, and those for the test where there are such.

    A data set that comes divided (``train/<class>/...``, ``val/...``, ``test/...``) stays so; else shares are split
    off, or with ``numbered`` that fold: (which, of how many). The same images, fractions and seed give the same parts;
    what is to be said of them are the first one's remarks. ``load``: reads images; without ``labelled``
    labels guide the split, but no part needs any. Raises what loading and splitting do, and DatasetError for validation
    images that ``data`` has too, that have other classes, or that there are twice.
    """
    dataset = load(data, None)
    remarks = [*dataset.remarks]
    own = own_parts(dataset)
    if not labelled:
        dataset = replace(dataset, classes=())
    rest, test = dataset, None
    if own is not None:
        own = {name: replace(part, classes=dataset.classes) for name, part in own.items()}
        rest, test = own["train"], own.get("test")
        remarks.append(_divided(dataset))
    elif any(sample.part is not None for sample in dataset.samples):
        remarks.append(
            f"{data} comes divided, but its training images are not of every class; all its images, those for testing "
            "among them, are split anew"
        )
    if test is None and test_fraction:
        rest, test = split(rest, test_fraction, seed)
    if numbered is not None:
        if val is not None or (own is not None and "val" in own):
            raise DatasetError("validation images are there, and folds would be others; leave these out, or the folds")
        rest, held = fold(rest, *numbered, seed)
    elif val is not None:
        if own is not None and "val" in own:
            raise DatasetError(f"{data} comes with validation images of its own; give its training folder, or no --val")
        held = load(val, dataset.classes)
        remarks += held.remarks
        if labelled:
            replace(held, multi_label=dataset.multi_label).targets(dataset.classes)
        check_disjoint(dataset, held)
    elif own is not None and "val" in own:
        held = own["val"]
        if missing := sorted(set(dataset.classes) - {label for one in held.samples for label in one.labels or ()}):
            remarks.append(f"the validation images of {data} show no {', '.join(missing)}")
    else:
        rest, held = split(rest, val_fraction, seed)
    if test is not None:
        test = replace(test, remarks=())
    return replace(rest, remarks=tuple(dict.fromkeys(remarks))), replace(held, remarks=()), test


def _divided(dataset: Dataset) -> str:
    """How a data set comes divided, in a line."""
    counts = Counter((sample.name.partition("/")[0], sample.part) for sample in dataset.samples)
    folders = ", ".join(f"{count} in {folder} ({part})" for (folder, part), count in sorted(counts.items()))
    return f"{dataset.root} comes divided, and stays so: {folders}"
