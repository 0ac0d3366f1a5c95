"""A segmentation network's training as a value: recipes, earlier runs, options -> what is trained from which masks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from camseg.base.device import find_device
from camseg.base.errors import DatasetError, InputError
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.registry import choose
from camseg.data.datasets import Dataset, load_images
from camseg.data.images import squeezed
from camseg.data.labels import negative_hint
from camseg.data.mask_settings import MaskReading
from camseg.data.remarks import unreadable
from camseg.data.truth import MaskSource, find_true_masks, masks_by_label
from camseg.models.building import has_pretrained
from camseg.models.segmenters.registry import canonical_segmenter
from camseg.runs.corrections import Decided, decided_masks, stale_line
from camseg.runs.loop import check_apart
from camseg.runs.output import prediction_root
from camseg.segment.segmenter import Segmenter
from camseg.train.course import check_run_folder
from camseg.train.freezing import learning_parameters
from camseg.train.mask_batches import MaskedSet
from camseg.train.parts import training_parts
from camseg.train.plan import check_batches, origin_of, planned, starting_weights, training_of_run, with_weights_hash
from camseg.train.recipes import SEGMENTER_RECIPES
from camseg.train.segmenter_learner import decoder_parameters
from camseg.train.segmenter_trainer import train_segmenter
from camseg.train.settings import DEFAULT_SEGMENTER, SegmenterTraining
from camseg.train.student import find_pseudo_masks, is_labelled_folder


@dataclass(frozen=True, kw_only=True)
class PreparedSegmenter:
    """A training that only has to be run."""

    training: SegmenterTraining
    """With the hashes of its images and of its weights file."""
    segmenter: Segmenter
    """Untrained, on the CPU."""
    train: MaskedSet
    """Images to learn from."""
    val: MaskedSet
    """Images that decide when to stop, and calibrate."""
    test: MaskedSet | None
    """Images that decide nothing."""
    remarks: tuple[str, ...]
    """Lines on the images and masks where they may not be what was meant, to be said before the training."""


def plan_segmenter_training(
    data: Path | str | None = None,
    *,
    recipe: str | None = None,
    like: Path | str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> SegmenterTraining:
    """As ``plan_training``, of a segmentation network: ``changes`` are fields of ``SegmenterTraining`` and
    ``SegmenterSettings`` by name, ``masks`` among them.

    Raises InputError for names that there are not, and CheckpointError for a run that does not say how it was trained.
    """

    def base() -> SegmenterTraining:
        if like is not None:
            return training_of_run(SegmenterTraining, Path(like, Segmenter.FILE))
        return choose("recipe", recipe or "default", SEGMENTER_RECIPES).training

    changes = dict(changes or {})
    if "val_fraction" in changes and "val" not in changes:
        changes.setdefault("val_masks", None)
    plan = planned(
        SegmenterTraining,
        data,
        base=base,
        recipe=recipe,
        like=like,
        changes=changes,
        start=_start,
        places=("val", "masks", "val_masks"),
    )
    if not plan.masks:
        raise InputError("expected masks to learn from; name their folder with --masks")
    if plan.val_masks and plan.val is None:
        raise InputError("--val-masks are of the images of --val; give both, or neither")
    if plan.model is None:
        plan = replace(plan, model=DEFAULT_SEGMENTER)
    return plan


def _start(weights: str | None, model: str | None) -> str:
    _, _, encoder = canonical_segmenter(model or DEFAULT_SEGMENTER).partition("+")
    return starting_weights(weights, bool(encoder) and has_pretrained(encoder))


def prepare_segmenter_training(training: SegmenterTraining, out: Path | str) -> PreparedSegmenter:
    """Read and split the images, find their masks, and create the segmenter, for a run in the folder ``out``.

    Writes nothing. Images without a mask are left out. Raises what loading, splitting and creating do, and InputError
    for images or a weights file that are no longer the same.
    """
    sources: list[MaskSource] = []
    said: list[str] = []

    def load(place: Path | str, _classes: Sequence[str] | None) -> Dataset:
        data = load_images(place)
        masks = training.val_masks if sources and training.val_masks is not None else training.masks
        decided = decided_masks(prediction_root(masks))
        if line := stale_line(decided.values(), masks):
            said.append(line)
        source = _find(training, masks, data, decided)
        if training.per_class:
            source = masks_by_label(source, data.samples, sources[0].classes if sources else None)
        elif len(source.classes) == 1 and not sources and (kinds := _kinds(source, data)):
            said.append(
                f"masks of {', '.join(kinds)} are learned as one class, {source.classes[0]}; "
                "--per-class tells them apart"
            )
        known = tuple(sample for sample in data.samples if source.knows(sample))
        if not known:
            raise DatasetError(f"none of the {len(data.samples)} images of {place} has a mask in {masks}")
        if missing := [sample for sample in data.samples if not source.knows(sample)]:
            lacking = f"no mask in {masks}{', or no label that says of what' if training.per_class else ''}"
            stopped = (
                "; where its command was stopped, the same command finishes it" if is_labelled_folder(masks) else ""
            )
            said.append(
                f"{len(missing)} of {len(data.samples)} images of {place} have {lacking} and are left out, such as "
                f"{missing[0].path}{stopped}"
            )
        sources.append(source)
        return replace(data, samples=known)

    train, val, test, found = training_parts(training, load=load, labelled=False, called="IMAGES")
    for part in (train, val):
        check_apart(part, Path(out))
    # Validation images may have been drawn by people, where the others were not.
    masks, val_masks = sources[0], sources[-1]
    if (masks.classes, masks.multi_label) != (val_masks.classes, val_masks.multi_label):
        if len(masks.classes) > 1 or len(val_masks.classes) > 1:
            raise DatasetError(
                f"the masks of the validation images are of {', '.join(val_masks.classes)}, the others of "
                f"{', '.join(masks.classes)}; give folders of the same classes"
            )
        val_masks = val_masks.called(masks.classes)
    torch.manual_seed(training.settings.seed)
    segmenter = Segmenter.create(
        training.model or DEFAULT_SEGMENTER,
        classes=masks.classes,
        image_size=training.image_size,
        weights=training.weights,
        multi_label=masks.multi_label,
        negative=masks.negative,
        resize=training.resize,
        window=training.window,
        mean=training.mean,
        std=training.std,
        model_args=training.model_args,
    )
    check_batches(segmenter, training.settings, len(train.samples), decoder_parameters)
    return PreparedSegmenter(
        training=with_weights_hash(replace(training, samples_sha256=found)),
        segmenter=segmenter,
        train=MaskedSet(data=train, masks=masks),
        val=MaskedSet(data=val, masks=val_masks),
        test=None if test is None else MaskedSet(data=test, masks=masks),
        remarks=tuple(_remarks(segmenter, [*said, *train.remarks], train)),
    )


def _kinds(source: MaskSource, data: Dataset) -> list[str]:
    """What the masks are of, where that differs from image to image."""
    found = {kind for sample in data.samples for kind in source.kinds(sample) or ()} - {*source.negative}
    return sorted(found) if len(found) > 1 else []


def _find(training: SegmenterTraining, masks: Path | str, data: Dataset, decided: Mapping[Path, Decided]) -> MaskSource:
    student = training.settings.student
    if is_labelled_folder(masks):
        if training.mask_class is not None or training.mask_classes is not None:
            raise InputError(f"{masks} holds masks of one class each; leave out --mask-class and --mask-classes")
        return find_pseudo_masks(masks, student, name=training.object_name, negative=training.negative)
    reading, numbers = MaskReading(), training.mask_classes
    if training.mask_class is not None:
        reading, numbers = MaskReading(mask_class=training.mask_class, mask_classes=numbers), None
    found = find_true_masks(
        prediction_root(masks),
        data.samples,
        name=training.object_name,
        reading=reading,
        numbers=numbers,
        negative=training.negative,
    )
    if not decided or numbers is not None or reading.mask_class is not None:
        return found
    drawn = {path: one.file for path, one in decided.items() if one.drawn}
    return found.replaced(drawn | {path: None for path, one in decided.items() if one.decision == "rejected"})


def _remarks(segmenter: Segmenter, said: Sequence[str], train: Dataset) -> list[str]:
    counts = Counter(label for sample in train.samples for label in sample.labels or ())
    labels = sorted(counts)
    hint = negative_hint(labels, segmenter.negative)
    line = squeezed([sample.path for sample in train.samples]) if segmenter.window == "full" else None
    return [*said, *([hint] if hint else []), *([line] if line else [])]


def try_segmenter_training(
    prepared: PreparedSegmenter, out: Path | str, *, device: str = "auto", overwrite: bool = False
) -> dict[Path, str]:
    """The images and masks that ``run_segmenter_training`` would leave out, with the reason, as far as their first
    bytes tell.

    Writes nothing. Raises what ``run_segmenter_training`` would before its first epoch.
    """
    check_run_folder(Path(out), overwrite=overwrite)
    find_device(device)
    learning_parameters(prepared.segmenter.model, prepared.training.settings.trainable, decoder_parameters)
    found: dict[Path, str] = {}
    for part in (prepared.train, prepared.val, prepared.test):
        if part is not None:
            needed = [(one.path, *part.masks.files(one)) for one in part.data.samples]
            reasons = unreadable(path for files in needed for path in files)
            if all(reasons.keys() & files for files in needed):
                first = next(iter(reasons.values()))
                raise DatasetError(f"none of {len(needed)} images and masks can be read; the first: {first}")
            found |= reasons
    return found


def run_segmenter_training(
    prepared: PreparedSegmenter,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> dict[str, Any]:
    """``train_segmenter`` on what was prepared; the run's ``segmenter.json`` then says how to repeat it."""
    return train_segmenter(
        prepared.segmenter,
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
    )
