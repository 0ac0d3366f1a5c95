"""Which images runs are chosen on, and toward which class each is looked at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam
from camseg.base.errors import ImageError, InputError, failure_line
from camseg.base.progress import Progress, Say
from camseg.cams.predict import predict
from camseg.classify.checkpoint import AnyClassifier, load_classifier
from camseg.data.datasets import Dataset, Sample
from camseg.data.images import read_image
from camseg.studies.array_cache import ArrayCache
from camseg.studies.choose_maps import BatchMaps, all_views
from camseg.studies.material import in_batches
from camseg.studies.settings import ChooseSettings

T = TypeVar("T")

GUESSED: Final = 4
"""How many unlabelled images are asked for their class, for each that may be looked at."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is the same for every run."""

    settings: ChooseSettings
    """What is asked for."""
    device: str
    """Where networks run."""
    cache: ArrayCache
    """What an earlier call computed."""
    progress: Progress
    """How far the work is."""
    say: Say
    """What a person must know meanwhile."""

    def load(self, run: Path | str) -> AnyClassifier:
        """``load_run`` with the study's settings."""
        return load_run(run, self.settings, self.device)

    def batches(self, items: Sequence[T], title: str) -> Iterator[tuple[int, Sequence[T]]]:
        """Items as they go through a network together, with the place of the first."""
        size = self.settings.batch_size
        return ((number * size, batch) for number, batch in enumerate(in_batches(items, size, self.progress, title)))

    def maps(
        self, batch: BatchMaps, name: str, files: Sequence[Path], facts: Mapping[str, Any]
    ) -> dict[str, list[Cam]]:
        """By the name of each propagation, and of ``none``, the maps at ``MASK_SIDE``; see ``ArrayCache.once``."""
        return {
            spread: self.cache.once(f"{name}/{spread}", files, facts, partial(batch.spread, spread))
            for spread in dict.fromkeys(("none", *self.settings.propagations))
        }


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image with an object, and toward which class it is looked at."""

    sample: Sample
    """The image."""
    target: str
    """The class."""


def load_run(run: Path | str, settings: ChooseSettings, device: str) -> AnyClassifier:
    """A run's classifier, with the negative classes that are asked for."""
    classifier = load_classifier(run, device)
    return classifier.with_negative(settings.negative) if settings.negative else classifier


def draw_images(
    study: Study,
    runs: Sequence[Path | str],
    data: Dataset,
    classes: Sequence[str],
    negative: Sequence[str],
    multi: bool,
) -> tuple[list[Case], list[Sample], list[str]]:
    """The images with an object, those without, and why others cannot be read."""
    limit = study.settings.limit
    order = np.random.default_rng(study.settings.seed).permutation(len(data.samples))
    samples = [data.samples[place] for place in order]
    failed: list[str] = [f"{place}: {reason}" for place, reason in data.failures]

    def readable(sample: Sample) -> bool:
        try:
            read_image(sample.path)
        except ImageError as error:
            failed.append(failure_line(sample.path, error))
            study.say(f"left out: {failed[-1]}")
            return False
        return True

    unlabelled = [sample for sample in samples if sample.labels is None]
    asked = [sample for sample in unlabelled[: GUESSED * limit] if readable(sample)]
    guesses = _guess(study, runs, asked, classes, multi) if asked else {}
    cases: list[Case] = []
    empty: list[Sample] = []
    for sample in samples:
        labels = guesses.get(sample.name) if sample.labels is None else sample.labels
        if labels is None:  # nobody has asked
            continue
        targets = [label for label in labels if label not in negative]
        room = len(cases) < limit if targets else len(empty) < limit
        if not room or not (sample.name in guesses or readable(sample)):
            continue
        if targets:
            cases += [Case(sample=sample, target=target) for target in targets][: limit - len(cases)]
        else:
            empty.append(sample)
    if not cases:
        raise InputError(
            f"expected images with an object in {data.root}; {len(empty)} of {len(samples)} are labelled or predicted "
            f"as without one ({', '.join(negative) or 'no negative class'}), {len(failed)} cannot be read"
        )
    return cases, empty, failed


def _guess(
    study: Study, runs: Sequence[Path | str], samples: Sequence[Sample], classes: Sequence[str], multi: bool
) -> dict[str, tuple[str, ...]]:
    """The classes of images by the runs' mean probabilities: the likeliest, or those of at least a half."""
    total = np.zeros((len(samples), len(classes)))
    for run in runs:
        classifier = study.load(run)
        columns, own = [classifier.class_index(name) for name in classes], own_folder(classifier)
        for start, batch in study.batches(samples, f"{run}, classes"):
            paths = [sample.path for sample in batch]
            (rows,) = study.cache.once(f"{own}/classes/{start}", paths, {}, partial(_probabilities, classifier, paths))
            total[start : start + len(batch)] += rows[:, columns]
    found = {}
    for sample, row in zip(samples, total / len(runs), strict=True):
        chosen = np.flatnonzero(row >= 0.5).tolist() if multi else [int(row.argmax())]
        found[sample.name] = tuple(classes[place] for place in chosen)
    return found


def _probabilities(classifier: AnyClassifier, paths: Sequence[Path]) -> list[NDArray[np.float32]]:
    return [predict(classifier, all_views(classifier, paths))]


def own_folder(classifier: AnyClassifier) -> str:
    """Where what a run shows is kept."""
    return classifier.fingerprint()[:12]
