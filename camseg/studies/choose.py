"""Runs and settings ranked without any true mask.

Three things tell: how far runs' masks agree on images with an object, what they find of known objects that are planted
into images without one, and, for a veto alone, how faithful maps are to their network.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask, quantise
from camseg.base.device import find_device
from camseg.base.errors import InputError
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.classify.checkpoint import AnyClassifier
from camseg.data.datasets import Dataset, Sample, load_images
from camseg.studies.array_cache import ArrayCache
from camseg.studies.choose_images import Case, Study, draw_images, load_run, own_folder
from camseg.studies.choose_maps import (
    IMAGE_SIDE,
    MASK_SIDE,
    BatchMaps,
    ByWindow,
    all_views,
    masks_of,
    read_views,
    shrunk,
)
from camseg.studies.choose_report import Choice
from camseg.studies.choose_scores import Shown, dice_with_others, find_donors, mask_dice, rank_candidates
from camseg.studies.material import digest
from camseg.studies.planting import GENERATORS, Donor, plant
from camseg.studies.settings import ChooseSettings

FAITHFUL: Final = 16
"""Most images on which insertion and deletion are measured."""


def choose_runs(
    runs: Sequence[Path | str],
    images: Dataset | Path | str,
    settings: ChooseSettings | None = None,
    *,
    cache: Path | str | None = None,
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

    ``cache``: a folder for what is computed, batch by batch of each run and propagation; a later call goes on with what
    it holds, also with more runs, propagations, thresholds or images. What hangs on files that have changed is computed
    again.

    Raises InputError for fewer than two runs, runs of other classes, or images none of which has an object; OutputError
    for a folder ``cache`` that holds other things.
    """
    settings = settings or ChooseSettings()
    _check_runs(runs)
    if not isinstance(images, Dataset) and Path(images, "classifier.json").exists():
        raise InputError(f"expected images last; {images} is a run")
    classes, negative, multi = _check_together(runs, settings)
    data = images if isinstance(images, Dataset) else load_images(images, classes)
    study = Study(
        settings=settings,
        device=device,
        cache=ArrayCache(cache, _identity(settings, device), say),
        progress=progress,
        say=say,
    )
    cases, empty, failed = draw_images(study, runs, data, classes, negative, multi)
    seen: list[Shown] = []
    faithful = []
    for run in runs:
        classifier = study.load(run)
        faithful.append(_look(study, run, classifier, cases, seen))
        del classifier  # before the next one is loaded
    each = len(settings.propagations) * len(settings.thresholds)
    agreement = dice_with_others(seen, len(runs), each)
    donors = find_donors(seen)
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
            classifier = study.load(run)
            for name, scores in _find(study, run, classifier, empty, cases, donors).items():
                planted.setdefault(name, []).extend(scores)
            del classifier
    chosen = rank_candidates(runs, settings, agreement, planted, np.array(faithful))
    return Choice(
        images=str(images.root if isinstance(images, Dataset) else images),
        positives=tuple((case.sample.name, case.target) for case in cases),
        negatives=tuple(sample.name for sample in empty) if planted else (),
        candidates=tuple(sorted(chosen, key=lambda one: (one.rank, -one.agreement))),
        notes=tuple(notes),
        failed=tuple(failed),
    )


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


def _identity(settings: ChooseSettings, device: str) -> dict[str, Any]:
    """What decides all maps, whichever runs, images, propagations and thresholds are asked for."""
    return {
        **settings.cams.identity(),
        "negative": list(settings.negative),
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "device": find_device(device).type,
        "sides": [IMAGE_SIDE, MASK_SIDE],
    }


def _check_together(
    runs: Sequence[Path | str], settings: ChooseSettings
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The runs' classes, negative classes, and whether those are independent; InputError where runs differ in them."""
    facts = []
    for run in runs:
        classifier = load_run(run, settings, "cpu")
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


def _look(
    study: Study, run: Path | str, classifier: AnyClassifier, cases: Sequence[Case], seen: list[Shown]
) -> list[float]:
    """Add a run's masks and maps of every image to ``seen``; return its insertion minus deletion on the first."""
    own, scores = own_folder(classifier), list[float]()
    for start, batch in study.batches(cases, f"{run}, masks"):
        paths, targets = [case.sample.path for case in batch], [case.target for case in batch]
        maps = BatchMaps(classifier=classifier, load=partial(_inputs, classifier, batch), settings=study.settings)
        name, facts = f"{own}/images/{start}", {"targets": targets}
        with _naming(run):
            found = study.maps(maps, name, paths, facts)
            if (count := min(len(batch), FAITHFUL - start)) > 0:
                measure = partial(_measured, maps, count)
                scores += study.cache.once(f"{name}/faithfulness-{count}", paths, facts, measure)[0].tolist()
        for place, (cam, masks) in enumerate(zip(found["none"], masks_of(found, study.settings), strict=True), start):
            small = quantise(cam).astype(np.uint32)
            if place == len(seen):
                seen.append(Shown(masks=[], total=np.zeros_like(small)))
            seen[place].total += small
            seen[place].masks += [np.packbits(mask) for mask in masks]
    return scores


def _inputs(classifier: AnyClassifier, cases: Sequence[Case]) -> tuple[list[ByWindow], list[str]]:
    return all_views(classifier, [case.sample.path for case in cases]), [case.target for case in cases]


def _measured(maps: BatchMaps, count: int) -> list[NDArray[np.float64]]:
    return [np.array(maps.faithfulness(count), np.float64)]


@contextmanager
def _naming(run: Path | str) -> Iterator[None]:
    """What a run is refused for is told by its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"run {run}: {error}") from None


def _find(
    study: Study,
    run: Path | str,
    classifier: AnyClassifier,
    empty: Sequence[Sample],
    cases: Sequence[Case],
    donors: Mapping[int, Donor],
) -> dict[str, list[float]]:
    """By generator the mean Dice of a run's masks with planted objects, for each setting."""
    dices: dict[str, list[list[float]]] = {name: [] for name in GENERATORS}
    own, lenders = own_folder(classifier), [cases[place].sample.path for place in donors]
    facts = {"objects to plant": digest([_donor_facts(cases[place], donor) for place, donor in donors.items()])}
    for start, batch in study.batches(empty, f"{run}, planted objects"):
        paths = [sample.path for sample in batch]
        bases = functools.cache(partial(all_views, classifier, paths))
        for generator in GENERATORS:
            planting = _Planting(
                generator=generator,
                classifier=classifier,
                bases=bases,
                keys=[(study.settings.seed, number) for number in range(start, start + len(batch))],
                cases=cases,
                donors=donors,
            )
            maps = BatchMaps(classifier=classifier, load=planting.inputs, settings=study.settings)
            name, files = f"{own}/{generator}/{start}", [*paths, *lenders]
            truths = study.cache.once(f"{name}/planted", files, facts, planting.truths)
            if truths:
                with _naming(run):
                    masks = masks_of(study.maps(maps, name, files, facts), study.settings)
                dices[generator] += [
                    [mask_dice(mask, truth) for mask in one] for one, truth in zip(masks, truths, strict=True)
                ]
    return {name: np.mean(rows, axis=0).tolist() for name, rows in dices.items() if rows}


def _donor_facts(case: Case, donor: Donor) -> list[object]:
    region = hashlib.sha256(np.packbits(donor.region).tobytes()).hexdigest()
    return [case.sample.name, case.target, donor.region.shape, region, donor.peak]


@dataclass(kw_only=True, eq=False)
class _Planting:
    """Objects of one generator in a batch of images: nothing is planted before it is asked for, and nothing twice."""

    generator: str
    classifier: AnyClassifier
    bases: Callable[[], Sequence[ByWindow]]
    keys: Sequence[tuple[int, int]]  # of each image, what its random numbers follow from
    cases: Sequence[Case]
    donors: Mapping[int, Donor]

    @cached_property
    def made(self) -> list[tuple[ByWindow, str, Mask]]:
        """Images with what is looked for in them and its mask; without those on which nothing of it fell."""
        places = list(self.donors)
        found: list[tuple[ByWindow, str, Mask]] = []
        for base, key in zip(self.bases(), self.keys, strict=True):
            place = places[np.random.default_rng((*key, *self.generator.encode())).integers(len(places))]
            case, donor = self.cases[place], self.donors[place]
            lent = read_views(self.classifier, case.sample.path)
            views = {window: plant(self.generator, base[window], lent[window], donor, key) for window in base}
            truth = shrunk(views[self.classifier.window].mask.astype(np.float32), MASK_SIDE) > 0.5
            if truth.any():
                found.append(({window: one.image for window, one in views.items()}, case.target, truth))
        return found

    def inputs(self) -> tuple[list[ByWindow], list[str]]:
        return [views for views, _, _ in self.made], [target for _, target, _ in self.made]

    def truths(self) -> list[Mask]:
        return [truth for _, _, truth in self.made]
