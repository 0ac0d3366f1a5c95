"""Data sets divided for training: by their own folders, by chance or into folds, and no image on both sides."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import DatasetError, InputError
from camseg.data.datasets import Dataset, Sample, image_places
from camseg.data.layouts import Part
from camseg.data.twins import contents, twins


def own_parts(dataset: Dataset) -> dict[Part, Dataset] | None:
    """The parts that a data set comes divided into, if those are of use: training images of every class, and others.

    Raises DatasetError for parts that share an image.
    """
    held: dict[Part, list[Sample]] = {}
    for sample in dataset.samples:
        if sample.part is None:
            return None
        held.setdefault(sample.part, []).append(sample)
    if {label for one in held.get("train", ()) for label in one.labels or ()} != set(dataset.classes):
        return None
    names: tuple[Part, ...] = ("train", "val", "test")
    parts = {name: replace(dataset, samples=tuple(held[name]), remarks=()) for name in names if name in held}
    for first, second in combinations(parts, 2):
        places = {name: replace(parts[name], root=dataset.root / name) for name in (first, second)}
        check_disjoint(places[first], places[second])
    return parts


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split into a training and a validation set, stratified by label, never through a group.

    Images that are there more than once, as copies or links, stay together as a group does.

    ``fraction`` in (0, 1) is the validation share; with groups it is met as nearly as whole groups
    allow. Raises DatasetError when either side would be empty or would miss a class.
    """
    from sklearn.model_selection import train_test_split  # here: only training waits for its import

    if not 0.0 < fraction < 1.0:
        raise InputError(f"expected a fraction to split off between 0 and 1, got {fraction:g}")
    labels = _strata(dataset)
    everything = np.arange(len(labels))
    try:
        groups = _groups(dataset)
        if groups is not None:
            train, val = _split_groups(labels, groups, fraction, seed)
        else:
            smallest = min(Counter(labels).values())
            stratify = labels if smallest > 1 and len(set(labels)) <= fraction * len(labels) else None
            train, val = train_test_split(everything, test_size=fraction, random_state=seed, stratify=stratify)
    except ValueError as error:
        raise DatasetError(f"cannot split {len(labels)} images into training and validation: {error}") from None
    return _both(dataset, train, val)


def fold(dataset: Dataset, number: int, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Divide into ``count`` folds of about one size; return all others for training and fold ``number`` for validation.

    Stratified by label, never through a group or between copies of an image, as ``split``; ``number``: from 0. Over all
    numbers each image is in validation once. Raises DatasetError when a side would be empty or would miss a class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if not 0 <= number < count or count < 2:
        raise InputError(f"expected at least 2 folds, and one from 0 to their number less 1; got {number} of {count}")
    labels = _strata(dataset)
    groups = _groups(dataset)
    groups = np.arange(len(labels)) if groups is None else groups
    if len(set(groups)) < count:
        raise DatasetError(f"cannot make {count} folds of {len(set(groups))} groups of images; ask for fewer")
    folds = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that rare labels are not in every fold: judged below
            train, val = next(islice(folds.split(labels, labels, groups), number, None))
    except ValueError as error:
        raise DatasetError(f"cannot make {count} folds of {len(labels)} images: {error}") from None
    return _both(dataset, train, val)


def check_disjoint(first: Dataset, second: Dataset) -> None:
    """Raise DatasetError when two sets share an image, by whatever path or as a copy of the same bytes, or a group.

    Scores on the one, of what learned from the other, would flatter.
    """
    known = image_places(first)
    if both := [sample.path for sample in second.samples if os.path.realpath(sample.path) in known]:
        raise DatasetError(
            f"{len(both)} images of {second.root} are in {first.root} too, such as {both[0]}; keep them apart"
        )
    ours = [sample.path for sample in first.samples]
    held = contents([*ours, *(sample.path for sample in second.samples)])
    originals = {held[path]: path for path in ours if path in held}
    if copies := [sample.path for sample in second.samples if held.get(sample.path) in originals]:
        raise DatasetError(
            f"{len(copies)} images of {second.root} are copies of images in {first.root}, such as {copies[0]} of "
            f"{originals[held[copies[0]]]}; keep them apart"
        )

    groups, others = ({sample.group for sample in part.samples if sample.group} for part in (first, second))
    if shared := sorted(groups & others):
        raise DatasetError(
            f"{len(shared)} groups of {second.root} are in {first.root} too, such as {shared[0]}; keep each on one "
            "side, or name groups apart that only share a name"
        )


def _strata(dataset: Dataset) -> NDArray[Any]:
    """Of each sample a text of its labels: what splits keep the shares of."""
    return np.array([";".join(sorted(sample.labels or ())) for sample in dataset.samples])


def _groups(dataset: Dataset) -> NDArray[Any] | None:
    """The group of each sample, of which copies of an image are one; None where no two samples belong together."""
    samples = dataset.samples
    copies = twins([sample.path for sample in samples])
    if not copies and all(sample.group is None for sample in samples):
        return None
    groups = [sample.group or sample.name for sample in samples]
    leaders: dict[str, str] = {}

    def leader(group: str) -> str:
        while group in leaders:
            group = leaders[group]
        return group

    for places in copies:
        first, *others = sorted({leader(groups[place]) for place in places})
        leaders.update(dict.fromkeys(others, first))
    return np.array([leader(group) for group in groups])


def _split_groups(
    labels: NDArray[Any], groups: NDArray[Any], fraction: float, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

    # The fraction as that many folds of so many: 0.2 is one of five, 0.3 three of ten.
    most = min(max(10, round(1.0 / fraction)), len(set(groups)), *Counter(labels).values())
    share = Fraction(fraction).limit_denominator(most)
    if not 0 < share < 1 or abs(share - fraction) > 0.05:
        train, val = next(
            GroupShuffleSplit(n_splits=1, test_size=fraction, random_state=seed).split(labels, labels, groups)
        )
        return train, val
    folds = StratifiedGroupKFold(n_splits=share.denominator, shuffle=True, random_state=seed)
    parts = [val for _, val in islice(folds.split(labels, labels, groups), share.numerator)]
    val = np.concatenate(parts)
    return np.setdiff1d(np.arange(len(labels)), val), val


def _both(dataset: Dataset, train: NDArray[Any], val: NDArray[Any]) -> tuple[Dataset, Dataset]:
    """The parts by their indices; DatasetError where one misses a class."""
    parts = _subset(dataset, sorted(train)), _subset(dataset, sorted(val))
    for part, name in zip(parts, ("training", "validation"), strict=True):
        seen = {label for sample in part.samples for label in sample.labels or ()}
        if missing := sorted(set(dataset.classes) - seen):
            raise DatasetError(
                f"the {name} part of the split holds no image of {missing[0]!r}; add images or groups, change the "
                "validation fraction, the number of folds or the seed, or name a validation set"
            )
    return parts


def _subset(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    samples = tuple(dataset.samples[i] for i in indices)
    return replace(dataset, samples=samples)
