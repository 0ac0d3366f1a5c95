"""Runs and settings ranked without any true mask.

Three things tell: how far runs' masks agree on images with an object, what they find of known objects that are planted
into images without one, and, for a veto alone, how faithful maps are to their network.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Image, Mask, quantise
from camseg.base.errors import ImageError, InputError, failure_line
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.cams.compute import classifier_features, compute_cams
from camseg.cams.predict import predict
from camseg.classify.checkpoint import AnyClassifier, load_classifier
from camseg.data.datasets import Dataset, Sample, load_images
from camseg.data.images import read_image
from camseg.masks.consensus import pairwise_dice
from camseg.masks.threshold import cam_to_mask
from camseg.measure.faithfulness import deletion_curve, insertion_curve
from camseg.propagation.propagate import propagate
from camseg.propagation.settings import PropagateSettings
from camseg.studies.choose_report import Candidate, Choice, ranks, vetoes
from camseg.studies.material import in_batches
from camseg.studies.planting import GENERATORS, Donor, plant
from camseg.studies.settings import ChooseSettings

IMAGE_SIDE: Final = 512
"""Longest side of the images that are looked at; larger ones are made smaller first."""
MASK_SIDE: Final = 256
"""Longest side of the masks that are compared."""
GUESSED: Final = 4
"""How many unlabelled images are asked for their class, for each that may be looked at."""
FAITHFUL: Final = 16
"""Most images on which insertion and deletion are measured."""
STEPS: Final = 20
"""Steps of those curves."""
AREAS: Final = (0.002, 0.4)
"""Least and greatest area of a region that is planted, as shares of its image."""

ByWindow: TypeAlias = Mapping[str, Image]
"""An image as it looks in each window."""


@dataclass(frozen=True, kw_only=True)
class _Case:
    """An image with an object, and toward which class it is looked at."""

    sample: Sample
    target: str


@dataclass(kw_only=True, eq=False)
class _Seen:
    """What all runs have shown of one image so far."""

    masks: list[NDArray[np.uint8]]
    """Per candidate, in the order of runs, the mask's bits."""
    total: NDArray[np.uint32]
    """(h, w) the sum of the runs' 8-bit maps."""

    def unpacked(self) -> list[Mask]:
        """The masks."""
        shape, size = self.total.shape, self.total.size
        return [np.unpackbits(bits, count=size).reshape(shape).astype(np.bool_) for bits in self.masks]


def choose_runs(
    runs: Sequence[Path | str],
    images: Dataset | Path | str,
    settings: ChooseSettings | None = None,
    *,
    device: str = "auto",
    progress: Progress = silent,
    say: Say = unheard,
) -> Choice:
    """Rank classifier runs, and settings where there are several, by what needs no true mask.

    An image's class is its label, else the likeliest by the runs' mean probabilities. Images are made smaller to
    ``IMAGE_SIDE`` and masks, before refinement, compared at ``MASK_SIDE``. One run's network is in memory at a time.

    *Agreement*: for every image with an object the mean Dice of a run's mask with those of the other runs, under every
    setting; an empty mask agrees with none. *Planted objects*: each of ``planting.GENERATORS`` plants an object into
    every image without one, of a region where the runs agree; a run's score is the mean Dice of its masks with theirs,
    a setting's rank the mean over the generators. A run is *vetoed* as ``choose_report.vetoes`` says.

    Raises InputError for fewer than two runs, runs of other classes, or images none of which has an object.
    """
    settings = settings or ChooseSettings()
    _check_runs(runs)
    if not isinstance(images, Dataset) and Path(images, "classifier.json").exists():
        raise InputError(f"expected images last; {images} is a run")
    classes, negative, multi = _check_together(runs, settings)
    data = images if isinstance(images, Dataset) else load_images(images, classes)
    loaded = partial(_load, settings=settings, device=device)
    cases, empty, failed = _draw(runs, data, classes, negative, multi, loaded, settings, progress, say)
    seen: list[_Seen] = []
    faithful = []
    for run in runs:
        classifier = loaded(run)
        faithful.append(_look(run, classifier, cases, seen, settings, progress))
        del classifier  # before the next one is loaded
    each = len(settings.propagations) * len(settings.thresholds)
    agreement = _agreement(seen, len(runs), each)
    donors = _donors(seen)
    planted: dict[str, list[float]] = {}
    notes = [
        f"{len(cases)} images with an object, toward {', '.join(sorted({case.target for case in cases}))}.",
        f"A veto: insertion minus deletion far below the other runs', on {min(len(cases), FAITHFUL)} images.",
    ]
    if not empty:
        notes.append(
            "No planted objects: no image is of a negative class"
            + (f" ({', '.join(negative)})." if negative else "; --negative names one.")
        )
    elif not donors:
        notes.append("No planted objects: nowhere do the runs agree on a region that could be planted.")
    else:
        notes.insert(1, f"Objects were planted into {len(empty)} images without one.")
        for run in runs:
            classifier = loaded(run)
            for name, scores in _find(run, classifier, empty, cases, donors, settings, progress).items():
                planted.setdefault(name, []).extend(scores)
            del classifier
    chosen = _candidates(runs, settings, agreement, planted, np.array(faithful))
    return Choice(
        images=str(images.root if isinstance(images, Dataset) else images),
        positives=tuple((case.sample.name, case.target) for case in cases),
        negatives=tuple(sample.name for sample in empty) if planted else (),
        candidates=tuple(sorted(chosen, key=lambda one: (one.rank, -one.agreement))),
        notes=tuple(notes),
        failed=tuple(failed),
    )


def masks_of(
    classifier: AnyClassifier, images: Sequence[ByWindow], targets: Sequence[str], settings: ChooseSettings
) -> Iterator[tuple[Cam, list[Mask]]]:
    """Of each image its map toward its target, float32 (H, W), and a mask at ``MASK_SIDE`` for every setting.

    The masks are in the order of ``propagations``, of each that of ``thresholds``.
    """
    cams = settings.cams
    maps = compute_cams(
        classifier,
        images,
        targets,
        cams.methods,
        scales=cams.tried_scales,
        flip=cams.mirrors,
        score=cams.score,
        layer=cams.layers,
        score_channels=cams.score_channels,
        precision=cams.precision,
        batch_size=settings.batch_size,
    )[cams.methods[0]]
    for views, cam in zip(images, maps, strict=True):
        image, masks = views[classifier.window], []
        for name in settings.propagations:
            wide = cam
            if name != "none":
                guided = PropagateSettings(method=name).needs_features
                features = classifier_features(classifier, image) if guided else None
                wide = propagate(image, cam, name, features=features, device=classifier.device)
            small = _shrunk(wide, MASK_SIDE)
            masks += [cam_to_mask(small, threshold) for threshold in settings.thresholds]
        yield cam, masks


def read_views(classifier: AnyClassifier, path: Path) -> dict[str, Image]:
    """An image at ``IMAGE_SIDE`` in each window that a classifier reads; raises ImageError."""
    windows = dict.fromkeys((classifier.window, *(member.window for member in classifier.members)))
    return {window: _shrunk(read_image(path, window), IMAGE_SIDE) for window in windows}


# ---- what is looked at ---------------------------------------------------------------------------


def _check_runs(runs: Sequence[Path | str]) -> None:
    if len(runs) < 2:
        got = f"{len(runs)}" + (f" ({runs[0]})" if runs else "")
        raise InputError(
            f"expected at least two runs, whose masks are compared, and images last; got {got} run and images; train "
            "another with another --seed"
        )
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise InputError(f"expected different runs, got {', '.join(map(str, runs))}")


def _load(run: Path | str, settings: ChooseSettings, device: str) -> AnyClassifier:
    classifier = load_classifier(run, device)
    return classifier.with_negative(settings.negative) if settings.negative else classifier


def _check_together(
    runs: Sequence[Path | str], settings: ChooseSettings
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The runs' classes, negative classes, and whether those are independent; InputError where runs differ in them."""
    facts = []
    for run in runs:
        classifier = _load(run, settings, "cpu")
        facts.append((classifier.classes, classifier.negative, classifier.multi_label))
    classes, negative, multi = facts[0]
    for run, (others, ours, independent) in zip(runs, facts, strict=True):
        if set(others) != set(classes) or independent != multi:
            raise InputError(
                f"expected runs of the same classes; {runs[0]} tells {', '.join(classes)} apart, {run} "
                f"{', '.join(others)}"
                f"{'' if independent == multi else ', and only one of them takes classes for independent'}"
            )
        if set(ours) != set(negative):
            raise InputError(
                f"expected runs of the same negative classes; {runs[0]} has {', '.join(negative) or 'none'}, {run} "
                f"{', '.join(ours) or 'none'}; name them with --negative"
            )
    if set(classes) <= set(negative):
        raise InputError(f"every class is negative ({', '.join(negative)}): no image has an object")
    return classes, negative, multi


def _draw(
    runs: Sequence[Path | str],
    data: Dataset,
    classes: Sequence[str],
    negative: Sequence[str],
    multi: bool,
    loaded: "partial[AnyClassifier]",
    settings: ChooseSettings,
    progress: Progress,
    say: Say,
) -> tuple[list[_Case], list[Sample], list[str]]:
    """The images with an object, those without, and why others cannot be read."""
    order = np.random.default_rng(settings.seed).permutation(len(data.samples))
    samples = [data.samples[place] for place in order]
    failed: list[str] = [f"{place}: {reason}" for place, reason in data.failures]

    def readable(sample: Sample) -> bool:
        try:
            read_image(sample.path)
        except ImageError as error:
            failed.append(failure_line(sample.path, error))
            say(f"left out: {failed[-1]}")
            return False
        return True

    unlabelled = [sample for sample in samples if sample.labels is None]
    asked = [sample for sample in unlabelled[: GUESSED * settings.limit] if readable(sample)]
    guesses = _guess(runs, asked, classes, multi, loaded, settings, progress) if asked else {}
    cases: list[_Case] = []
    empty: list[Sample] = []
    for sample in samples:
        labels = guesses.get(sample.name) if sample.labels is None else sample.labels
        if labels is None:  # nobody has asked
            continue
        targets = [label for label in labels if label not in negative]
        room = len(cases) < settings.limit if targets else len(empty) < settings.limit
        if not room or not (sample.name in guesses or readable(sample)):
            continue
        if targets:
            cases += [_Case(sample=sample, target=target) for target in targets][: settings.limit - len(cases)]
        else:
            empty.append(sample)
    if not cases:
        raise InputError(
            f"expected images with an object in {data.root}; {len(empty)} of {len(samples)} are labelled or predicted "
            f"as without one ({', '.join(negative) or 'no negative class'}), {len(failed)} cannot be read"
        )
    return cases, empty, failed


def _guess(
    runs: Sequence[Path | str],
    samples: Sequence[Sample],
    classes: Sequence[str],
    multi: bool,
    loaded: "partial[AnyClassifier]",
    settings: ChooseSettings,
    progress: Progress,
) -> dict[str, tuple[str, ...]]:
    """The classes of images by the runs' mean probabilities: the likeliest, or those of at least a half."""
    total = np.zeros((len(samples), len(classes)))
    for run in runs:
        classifier = loaded(run)
        columns = [classifier.class_index(name) for name in classes]
        rows = [
            predict(classifier, [read_views(classifier, sample.path) for sample in batch])[:, columns]
            for batch in in_batches(samples, settings.batch_size, progress, f"{run}, classes")
        ]
        total += np.concatenate(rows)
    found = {}
    for sample, row in zip(samples, total / len(runs), strict=True):
        chosen = np.flatnonzero(row >= 0.5).tolist() if multi else [int(row.argmax())]
        found[sample.name] = tuple(classes[place] for place in chosen)
    return found


# ---- what runs show ------------------------------------------------------------------------------


def _look(
    run: Path | str,
    classifier: AnyClassifier,
    cases: Sequence[_Case],
    seen: list[_Seen],
    settings: ChooseSettings,
    progress: Progress,
) -> list[float]:
    """Add a run's masks and maps of every image to ``seen``; return its insertion minus deletion on the first."""
    scores: list[float] = []
    starts = range(0, len(cases), settings.batch_size)
    for start in progress(starts, len(starts), f"{run}, masks"):
        batch = cases[start : start + settings.batch_size]
        images = [read_views(classifier, case.sample.path) for case in batch]
        found = _named(run, masks_of(classifier, images, [case.target for case in batch], settings))
        for place, (case, views, (cam, masks)) in enumerate(zip(batch, images, found, strict=True), start):
            small = quantise(_shrunk(cam, MASK_SIDE)).astype(np.uint32)
            if place == len(seen):
                seen.append(_Seen(masks=[], total=np.zeros_like(small)))
            seen[place].total += small
            seen[place].masks += [np.packbits(mask) for mask in masks]
            if place < FAITHFUL:
                scores.append(_faithfulness(classifier, views[classifier.window], cam, case.target, settings))
    return scores


def _named(run: Path | str, found: Iterator[tuple[Cam, list[Mask]]]) -> list[tuple[Cam, list[Mask]]]:
    """What a run gives; what it is refused for, by its name."""
    try:
        return list(found)
    except InputError as error:
        raise InputError(f"run {run}: {error}") from None


def _faithfulness(classifier: AnyClassifier, image: Image, cam: Cam, target: str, settings: ChooseSettings) -> float:
    """The area under the insertion curve minus that under the deletion curve, in [-1, 1]."""
    place, windows = classifier.class_index(target), [member.window for member in classifier.members]

    def score(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(classifier, [dict.fromkeys(windows, one) for one in images])[:, place]

    insertion, deletion = insertion_curve, deletion_curve
    mean = 255 * np.asarray(classifier.members[0].mean)
    size = settings.batch_size
    return (
        insertion(score, image, cam, steps=STEPS, batch_size=size).area
        - deletion(score, image, cam, baseline=mean, steps=STEPS, batch_size=size).area
    )


def _agreement(seen: Sequence[_Seen], runs: int, each: int) -> NDArray[np.float64]:
    """Each candidate's mean Dice with the masks of the other runs, over the images: (runs * each,)."""
    owner = np.repeat(np.arange(runs), each)
    others = owner[:, None] != owner
    total = np.zeros(runs * each)
    for one in seen:
        total += (pairwise_dice(one.unpacked()) * others).sum(axis=1) / others.sum(axis=1)
    return total / len(seen)


def _donors(seen: Sequence[_Seen]) -> dict[int, Donor]:
    """By the number of the case the largest region that more than half of the masks hold, and the mean map's peak."""
    found = {}
    for place, one in enumerate(seen):
        masks = one.unpacked()
        agreed = np.sum(masks, axis=0, dtype=np.int64) * 2 > len(masks)
        count, labels, facts, _ = cv2.connectedComponentsWithStats(agreed.astype(np.uint8))
        if count < 2:
            continue
        region = labels == 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
        row, column = np.unravel_index(one.total.argmax(), one.total.shape)
        height, width = region.shape
        if AREAS[0] <= region.mean() <= AREAS[1]:
            peak = ((float(row) + 0.5) / height, (float(column) + 0.5) / width)
            found[place] = Donor(region=region, peak=peak)
    return found


def _find(
    run: Path | str,
    classifier: AnyClassifier,
    empty: Sequence[Sample],
    cases: Sequence[_Case],
    donors: Mapping[int, Donor],
    settings: ChooseSettings,
    progress: Progress,
) -> dict[str, list[float]]:
    """By generator the mean Dice of a run's masks with planted objects, for each setting."""
    dices: dict[str, list[list[float]]] = {name: [] for name in GENERATORS}
    places = list(donors)
    starts = range(0, len(empty), settings.batch_size)
    for start in progress(starts, len(starts), f"{run}, planted objects"):
        batch = empty[start : start + settings.batch_size]
        bases = [read_views(classifier, sample.path) for sample in batch]
        for name in GENERATORS:
            images, truths, targets = [], [], []
            for number, base in enumerate(bases, start):
                key = (settings.seed, number)
                place = places[np.random.default_rng((*key, *name.encode())).integers(len(places))]
                case = cases[place]
                lent = read_views(classifier, case.sample.path)
                made = {window: plant(name, base[window], lent[window], donors[place], key) for window in base}
                truth = _shrunk(made[classifier.window].mask.astype(np.float32), MASK_SIDE) > 0.5
                if truth.any():  # else nothing of it fell on the image
                    images.append({window: one.image for window, one in made.items()})
                    truths.append(truth)
                    targets.append(case.target)
            found = _named(run, masks_of(classifier, images, targets, settings))
            dices[name] += [
                [_dice(mask, truth) for mask in masks] for (_, masks), truth in zip(found, truths, strict=True)
            ]
    return {name: np.mean(rows, axis=0).tolist() for name, rows in dices.items() if rows}


def _dice(mask: Mask, truth: Mask) -> float:
    return float(2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)))


def _candidates(
    runs: Sequence[Path | str],
    settings: ChooseSettings,
    agreement: NDArray[np.float64],
    planted: Mapping[str, Sequence[float]],
    faithful: NDArray[np.float64],
) -> list[Candidate]:
    """Every run under every setting, with its ranks."""
    vetoed = vetoes(faithful)
    rank, planted_rank = ranks(agreement.tolist()), None
    if planted:
        planted_rank = np.mean([ranks(scores) for scores in planted.values()], axis=0)
        rank = (rank + planted_rank) / 2
    places = [
        (number, propagation, threshold)
        for number in range(len(runs))
        for propagation in settings.propagations
        for threshold in settings.thresholds
    ]
    return [
        Candidate(
            run=str(runs[number]),
            propagation=propagation,
            threshold=str(threshold),
            agreement=float(agreement[place]),
            planted={name: float(scores[place]) for name, scores in planted.items()},
            planted_rank=None if planted_rank is None else float(planted_rank[place]),
            rank=float(rank[place]),
            faithfulness=float(faithful[number].mean()),
            vetoed=bool(vetoed[number]),
        )
        for place, (number, propagation, threshold) in enumerate(places)
    ]


def _shrunk(pixels: NDArray[Any], longest: int) -> NDArray[Any]:
    """An array (H, W, ...) with sides of at most so many pixels."""
    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1.0:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
