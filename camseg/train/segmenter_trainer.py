"""Images with masks -> a segmenter run: as ``trainer`` for classifiers, with the same course and state."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import DatasetError, InputError
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.settings import to_json
from camseg.classify.checkpoint import clear_run
from camseg.measure.calibration import classifier_temperature
from camseg.measure.metrics import expected_calibration_error, reliability
from camseg.segment.segmenter import Segmenter
from camseg.train.course import STATE, check_run_folder, run_course
from camseg.train.freezing import settled_warmup
from camseg.train.mask_batches import LoadedMasks, MaskedSet, load_masks
from camseg.train.processes import started_together
from camseg.train.report import write_reports
from camseg.train.segmenter_learner import SegmenterLearner, decoder_parameters
from camseg.train.settings import SegmenterSettings


def train_segmenter(
    segmenter: Segmenter,
    train: MaskedSet,
    val: MaskedSet,
    out: Path | str,
    settings: SegmenterSettings | None = None,
    *,
    test: MaskedSet | None = None,
    origin: Mapping[str, Any] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> dict[str, Any]:
    """Train the network of ``segmenter`` in place and write the run into ``out``; return its validation metrics.

    Writes ``model.safetensors`` and ``segmenter.json`` of the epoch with the best mean Dice per validation image,
    calibrated on pixels of the validation images, with the ``settings`` and ``origin`` (JSON values) as its
    ``training``; ``metrics.json``, ``history.csv``, ``curves.png`` and ``reliability.png``. All scores are of the
    network's output at its own size. ``test`` images take no part in any choice; how the run does on them stands under
    ``test`` in the metrics. A run that was interrupted continues from its last whole epoch.

    Images that cannot be read, or whose masks cannot be or have another size, are left out, and listed under ``failed``
    in the metrics.

    Raises OutputError when ``out`` holds a finished run, or an unfinished one with other data, settings or starting
    weights; InputError for masks of other classes; DatasetError when none of the images can be read.
    """
    settings, out = settings or SegmenterSettings(), Path(out)
    parts = [part for part in (train, val, test) if part is not None]
    for part in parts:
        if (part.masks.classes, part.masks.multi_label) != (segmenter.classes, segmenter.multi_label):
            raise InputError(
                f"expected masks of the segmenter's classes, {', '.join(segmenter.classes)}; {part.data.root} has "
                f"{', '.join(part.masks.classes)}"
            )
    processes = started_together()
    if not processes.first:
        progress, say = silent, unheard
    else:
        check_run_folder(out, overwrite=overwrite)
    warmup = settled_warmup(segmenter.model, settings, say, decoder_parameters, "a decoder apart from its encoder")
    settings = replace(settings, warmup_epochs=warmup)
    sets: list[LoadedMasks] = []
    failed: dict[Path, str] = {}
    for part, name in zip(parts, ("training", "validation", "test"), strict=False):
        loaded, failures = load_masks(part, segmenter.preprocessing, progress, f"reading {name} images")
        sets.append(loaded)
        failed |= failures
    for one, name in zip(sets, ("training", "validation"), strict=False):
        if not one.known.any():
            raise DatasetError(f"nothing is known of any pixel of the {name} images; they need masks, or surer maps")
    if not sets[0].shown.any():
        say("no training image shows an object: the network will learn that there is none")
    start = segmenter.fingerprint()
    record = {**(origin or {}), "settings": to_json(settings), "start_sha256": start}
    segmenter = replace(segmenter, training=record, temperature=1.0)
    # Moved first: the optimiser must see the parameters where they will be.
    segmenter.model.to(processes.join(device))
    learner = SegmenterLearner(segmenter, settings, processes, sets[0], sets[1])
    identity = _identity(start, sets, settings)
    run_course(learner, out, identity, clear=clear_run if overwrite else None, progress=progress, say=say)
    calibrated, metrics, tables = _judge(learner, sets, failed, say)
    if processes.first:
        calibrated.save(out)
        write_reports(out, metrics, learner.state.history, tables)
        (out / STATE).unlink(missing_ok=True)
    processes.wait()
    return metrics


def _judge(
    learner: SegmenterLearner, sets: Sequence[LoadedMasks], failed: Mapping[Path, str], say: Say
) -> tuple[Segmenter, dict[str, Any], dict[str, NDArray[np.float64]]]:
    """The segmenter, calibrated on the validation images; its metrics, and its reliabilities before and after."""
    segmenter = learner.segmenter
    logits, truth = learner.known_logits(learner.val_loader)
    temperature, line = classifier_temperature(logits, truth, segmenter.multi_label, "validation pixels")
    if line:
        say(line)
    tables = {
        "uncalibrated": _reliability(segmenter, logits, truth, 1.0),
        "calibrated": _reliability(segmenter, logits, truth, temperature),
    }
    tally, _ = learner.measure(learner.val_loader, temperature)
    metrics = {
        **tally.scores(),
        "image_size": segmenter.image_size,
        "temperature": temperature,
        "expected_calibration_error": {name: _calibration_error(table) for name, table in tables.items()},
        "best_epoch": learner.state.best_epoch,
        "epochs": learner.state.epoch,
        "train_images": len(sets[0].images.data.samples),
        "val_images": len(sets[1].images.data.samples),
        "failed": {str(path): reason for path, reason in failed.items()},
        "training": to_json(learner.how),
    }
    for held_back in sets[2:]:
        tally, _ = learner.measure(learner.in_order(held_back), temperature)
        images = len(held_back.images.data.samples)
        metrics["test"] = {**tally.scores(), "images": images}
    return replace(segmenter, temperature=temperature), metrics, tables


def _reliability(
    segmenter: Segmenter, logits: NDArray[np.float32], truth: NDArray[Any], temperature: float
) -> NDArray[np.float64]:
    if not len(logits):
        return np.zeros((15, 3))
    scaled = logits.astype(np.float64) / temperature
    if segmenter.multi_label:
        return reliability(truth, 1.0 / (1.0 + np.exp(-np.clip(scaled, -500.0, 500.0))), True)
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return reliability(truth, shares / shares.sum(axis=1, keepdims=True), False)


def _calibration_error(table: NDArray[np.float64]) -> float | None:
    return expected_calibration_error(table) if table.any() else None


def _identity(start: str, sets: Sequence[LoadedMasks], settings: SegmenterSettings) -> str:
    """What must be equal for an interrupted training to go on: settings, the segmenter at the start, and data."""
    chosen = {key: value for key, value in to_json(settings).items() if key != "workers"}
    data = [
        [
            one.sha256,
            one.images.masks.facts(),
            [(sample.name, sample.labels, one.images.masks.trust(sample)) for sample in one.images.data.samples],
        ]
        for one in sets
    ]
    return hashlib.sha256(json.dumps([chosen, start, data], sort_keys=True).encode()).hexdigest()
