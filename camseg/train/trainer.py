"""Labelled images -> a classifier run: warm-up, fine-tuning, early stopping, the best epoch kept, calibration.

On one device as it is, on several with torchrun. All randomness follows from seed, epoch and image index, so an
interrupted run that is started again ends where an uninterrupted one would have.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.settings import to_json
from camseg.classify.checkpoint import clear_run
from camseg.classify.classifier import Classifier
from camseg.data.datasets import Dataset
from camseg.measure.calibration import classifier_temperature
from camseg.measure.metrics import expected_calibration_error
from camseg.train.batches import LoadedSet, load_pixels
from camseg.train.classifier_learner import ClassifierLearner
from camseg.train.course import STATE, check_run_folder, run_course
from camseg.train.features import FeatureCache
from camseg.train.freezing import settled_warmup
from camseg.train.processes import started_together
from camseg.train.report import calibration_error, reliability_of, scores, write_reports
from camseg.train.settings import TrainSettings


def train_classifier(
    classifier: Classifier,
    train: Dataset,
    val: Dataset,
    out: Path | str,
    settings: TrainSettings | None = None,
    *,
    test: Dataset | None = None,
    origin: Mapping[str, Any] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
    cache: FeatureCache | None = None,
) -> dict[str, Any]:
    """Train the network of ``classifier`` in place and write the run into ``out``; return its validation metrics.

    Writes ``model.safetensors`` and ``classifier.json`` of the epoch with the best validation macro-F1, calibrated on
    the validation images, with the ``settings`` and ``origin`` (JSON values) as its ``training``; ``metrics.json``,
    ``history.csv``, ``curves.png``, ``reliability.png`` and ``confusion.png``. The temperature is the run's: load it
    for calibrated probabilities. ``test`` images take no part in any choice; how the run does on them stands under
    ``test`` in the metrics. A run that was interrupted continues from its last whole epoch.

    Images that cannot be read are left out, and listed under ``failed`` in the metrics.

    Raises OutputError when ``out`` holds a finished run, or an unfinished one with other settings or starting weights;
    DatasetError when labels do not fit the classifier, or none of the images can be read.
    """
    settings = settings or TrainSettings()
    # A set may happen to give every image one label beside a multi-label classifier.
    parts = [replace(part, multi_label=classifier.multi_label) for part in (train, val, *([test] if test else ()))]
    out = Path(out)
    processes = started_together()
    if not processes.first:
        progress, say = silent, unheard
    else:
        check_run_folder(out, overwrite=overwrite)
    settings = replace(settings, warmup_epochs=settled_warmup(classifier.model, settings, say))
    sets: list[LoadedSet] = []
    failed: dict[Path, str] = {}
    for part, name in zip(parts, ("training", "validation", "test"), strict=False):
        readable, pixels, failures = load_pixels(classifier, part, progress, f"reading {name} images")
        sets.append(LoadedSet(readable, pixels))
        failed |= failures
    start = classifier.fingerprint()
    record = {**(origin or {}), "settings": to_json(settings), "start_sha256": start}
    classifier = replace(classifier, training=record, temperature=1.0)
    identity = _identity(start, sets, settings)
    # Moved first: the optimiser must see the parameters where they will be.
    classifier.model.to(processes.join(device))
    learner = ClassifierLearner(classifier, settings, processes, sets[0], sets[1], cache or FeatureCache(), progress)
    run_course(learner, out, identity, clear=clear_run if overwrite else None, progress=progress, say=say)
    calibrated, metrics, tables = _judge(learner, sets, failed, say)
    if processes.first:
        calibrated.save(out)
        exclusive = None if classifier.multi_label else classifier.classes
        write_reports(out, metrics, learner.state.history, tables, exclusive)
        (out / STATE).unlink(missing_ok=True)
    processes.wait()
    return metrics


def _judge(
    learner: ClassifierLearner, sets: Sequence[LoadedSet], failed: Mapping[Path, str], say: Say
) -> tuple[Classifier, dict[str, Any], dict[str, NDArray[np.float64]]]:
    """The classifier, calibrated on the validation images; its metrics, and its reliabilities before and after."""
    classifier, truth = learner.classifier, learner.truth
    logits, _ = learner.validate()
    temperature, line = classifier_temperature(logits.numpy(), truth, classifier.multi_label)
    if line:
        say(line)
    calibrated = replace(classifier, temperature=temperature)
    tables = {
        "uncalibrated": reliability_of(classifier, logits, truth),
        "calibrated": reliability_of(calibrated, logits, truth),
    }
    metrics = {
        **scores(calibrated, logits, truth),
        "temperature": calibrated.temperature,
        "expected_calibration_error": {name: expected_calibration_error(table) for name, table in tables.items()},
        "best_epoch": learner.state.best_epoch,
        "epochs": learner.state.epoch,
        "train_images": len(sets[0].dataset.samples),
        "val_images": len(sets[1].dataset.samples),
        "failed": {str(path): reason for path, reason in failed.items()},
        "training": to_json(learner.settings),
    }
    for held_back in sets[2:]:
        truth = held_back.dataset.targets(classifier.classes)
        logits = learner.predict(learner.in_order(held_back))
        error = calibration_error(calibrated, logits, truth)
        metrics["test"] = {**scores(calibrated, logits, truth), "expected_calibration_error": error}
    return calibrated, metrics, tables


def _identity(start: str, sets: Sequence[LoadedSet], settings: TrainSettings) -> str:
    """What must be equal for an interrupted training to go on: settings, the classifier at the start, and data."""
    chosen = {key: value for key, value in to_json(settings).items() if key != "workers"}
    data = [[(sample.name, sample.labels) for sample in one.dataset.samples] for one in sets]
    return hashlib.sha256(json.dumps([chosen, start, data], sort_keys=True).encode()).hexdigest()
