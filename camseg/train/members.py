"""One training -> members that differ by fold or seed, and the ensemble that they make.

With folds, as Isensee et al. do (nnU-Net, Nature Methods 2021), every image teaches all members but one.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from camseg.base.allocation import keep_freed_memory
from camseg.base.device import find_device, find_devices
from camseg.base.errors import CheckpointError, InputError, LayerError, OutputError
from camseg.base.files import check_can_write, read_json, write_json
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.settings import to_json
from camseg.base.workers import worker_processes
from camseg.classify.checkpoint import clear_run, load_network
from camseg.classify.classifier import Classifier
from camseg.classify.ensemble import Ensemble, member_folder
from camseg.data.images import write_image
from camseg.label.agreement import set_agreement
from camseg.measure.calibration import classifier_temperature
from camseg.measure.figures import plot_confusion, plot_reliability
from camseg.measure.metrics import classification_metrics, expected_calibration_error, reliability
from camseg.segment.segmenter import Segmenter
from camseg.train.features import FeatureCache
from camseg.train.freezing import possible_warmup
from camseg.train.passes import Passes, Seen
from camseg.train.plan import Prepared, check_trainable, prepare_training, read_training, run_training, try_training
from camseg.train.processes import started_together
from camseg.train.report import calibration_error, scores
from camseg.train.settings import MemberSettings, Training


def plan_members(training: Training, members: MemberSettings) -> list[Training]:
    """The training of each member: all folds of the first seed, then those of the next one.

    All split their images alike, as the training would; each has a seed of its own, from the training's upwards. Raises
    InputError for folds beside validation images.
    """
    if members.folds and training.val is not None:
        raise InputError("folds validate on the training images in turn; leave out --val, or give --seeds, not --folds")
    base = training.settings.seed
    split_seed = base if training.split_seed is None else training.split_seed
    folds = [(number, members.folds) for number in range(members.folds)] if members.folds else [training.fold]
    return [
        replace(training, fold=fold, split_seed=split_seed, settings=replace(training.settings, seed=base + number))
        for number, fold in enumerate(folds * members.seeds)
    ]


def prepare_members(trainings: Sequence[Training], out: Path | str) -> list[Prepared]:
    """``prepare_training`` for every member of the run ``out``; writes nothing."""
    return [prepare_training(training, member_folder(out, n)) for n, training in enumerate(trainings)]


def train_members(
    prepared: Sequence[Prepared],
    out: Path | str,
    *,
    weights: Literal["agreement", "equal"] = MemberSettings.member_weights,
    device: str = "auto",
    devices: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> dict[str, Any]:
    """Train members into ``out/members/0``, ``1``, ..., and join them into the ensemble ``out``; return its metrics.

    Every validation image is scored by the members that did not learn from it. One temperature is fitted on these
    scores for all members, and they are what the metrics are of. With the ``weights`` ``agreement`` more than two
    members count by how far their masks of training images agree with the others' (``set_agreement``). An interrupted
    run continues where it stopped, member by member. With ``devices``, as ``find_devices`` takes them, as many members
    train side by side, each in a process of its own (on the CPU with one thread). Writes ``metrics.json``,
    ``confusion.png`` and ``reliability.png`` too.

    Raises what ``run_training`` does; OutputError where ``out`` holds a finished run, or members trained otherwise.
    """
    out, processes = Path(out), started_together()
    if devices is not None and processes.count > 1:
        raise InputError("torchrun's processes train members together, one after another; leave --devices out")
    places = None if devices is None else find_devices(devices)
    if places is None:
        processes.join(device)
    check_ensemble_folder(out, overwrite=overwrite)
    for one in prepared:
        check_trainable(one)
    if overwrite and processes.first:  # only now that nothing speaks against the new run
        clear_run(out)
    processes.wait()
    cache = FeatureCache()  # of a frozen backbone, the members' features are the same
    waiting: list[tuple[str, Prepared, Path]] = []
    for number, one in enumerate(prepared):
        run, title = member_folder(out, number), f"member {number + 1} of {len(prepared)}"
        if (run / "metrics.json").exists():
            if processes.first:
                say(f"{title}: is there")
            _check_same(run, one)
        else:
            waiting.append((title, one, run))
    if places is not None:
        _train_side_by_side(waiting, places, say)
        device = places[0]
    else:
        for title, one, run in waiting:
            if processes.first:
                say(f"{title}: {_description(one)}")
            run_training(one, run, device=device, progress=progress, say=say, cache=cache)
    return _join(prepared, out, weights, device, progress, say) if processes.first else {}


def _train_side_by_side(waiting: Sequence[tuple[str, Prepared, Path]], devices: Sequence[str], say: Say) -> None:
    """Train members in as many processes as there are devices; a failure or Ctrl-C ends all, and what is done stays."""
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    with worker_processes() as call:

        def train(title: str, one: Prepared, run: Path) -> None:
            device = free.get()
            say(f"{title}: {_description(one)}, on {device}")
            try:
                call(_run_alone, one, run, device)
            finally:
                free.put(device)
            say(f"{title}: done")

        pool = ThreadPoolExecutor(len(devices), thread_name_prefix="camseg")
        try:
            for future in as_completed([pool.submit(train, *one) for one in waiting]):
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run_alone(prepared: Prepared, run: Path, device: str) -> None:
    """``run_training`` in a worker process, which has nobody to talk to."""
    keep_freed_memory()
    run_training(prepared, run, device=device)


def try_members(
    prepared: Sequence[Prepared],
    out: Path | str,
    *,
    device: str = "auto",
    devices: str | None = None,
    overwrite: bool = False,
) -> dict[Path, str]:
    """``try_training`` for all members of the run ``out`` that are still to be trained."""
    check_ensemble_folder(Path(out), overwrite=overwrite)
    device = device if devices is None else find_devices(devices)[0]
    found: dict[Path, str] = {}
    for number, one in enumerate(prepared):
        run = member_folder(out, number)
        if overwrite or not (run / "metrics.json").exists():
            found |= try_training(one, run, device=device, overwrite=overwrite)
        else:
            _check_same(run, one)
    return found


def check_ensemble_folder(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError where no ensemble can be written, or a finished run is not to be overwritten."""
    check_can_write(out)
    if not overwrite and any((out / name).exists() for name in (Classifier.FILE, Segmenter.FILE)):
        raise OutputError(f"{out} holds a run already; choose another --out, or --overwrite it")


def _description(one: Prepared) -> str:
    fold = one.training.fold
    place = "" if fold is None else f"fold {fold[0] + 1} of {fold[1]} validates, "
    return f"{place}seed {one.training.settings.seed}"


def _check_same(run: Path, one: Prepared) -> None:
    """Raise OutputError where a member that is there was not trained as this one would be."""
    asked = one.training.settings
    settled = replace(asked, warmup_epochs=possible_warmup(one.classifier.model, asked))  # as a run states it
    try:
        found = read_training(run)
        found = replace(found, settings=replace(found.settings, workers=settled.workers))  # which decide nothing
        same = to_json(found) == to_json(replace(one.training, settings=settled))
    except CheckpointError:
        same = False
    if not same:
        raise OutputError(f"{run} was trained otherwise; repeat its options, choose another --out, or --overwrite")


def _join(
    prepared: Sequence[Prepared], out: Path, weights: str, device: str, progress: Progress, say: Say
) -> dict[str, Any]:
    """Write the ensemble of trained members, calibrated; its metrics."""
    place = find_device(device)
    members = [load_network(member_folder(out, number), place) for number in range(len(prepared))]
    passes = Passes(batch_size=prepared[0].training.settings.batch_size, progress=progress)
    seen = [
        passes.over([member], replace(one.val, multi_label=member.multi_label), "validation images", first=number)
        for number, (member, one) in enumerate(zip(members, prepared, strict=True))
    ]
    # What each member says to each image that it did not learn from: the rows.
    logits = torch.cat([one.logits[0] for one in seen])  # (rows, classes)
    truth = np.concatenate([one.truth for one in seen])
    images = len({sample.path for one in seen for sample in one.data.samples})
    temperature, line = classifier_temperature(logits.numpy(), truth, members[0].multi_label, count=images)
    if line:
        say(line)
    calibrated = tuple(replace(member, temperature=temperature) for member in members)
    ensemble = Ensemble(members=calibrated, shares=(1 / len(members),) * len(members))
    if weights == "agreement" and len(members) > 2:  # two agree as far with each other
        samples = (*prepared[0].train.samples, *prepared[0].val.samples)
        try:
            agreement = set_agreement(ensemble, samples, progress)
            ensemble = replace(ensemble, shares=agreement.shares)
            say(agreement.line())
        except LayerError as error:
            say(f"the members make no maps, so all count the same: {error}")
    tables = {}
    for name, member in (("uncalibrated", replace(members[0], temperature=1.0)), ("calibrated", calibrated[0])):
        probabilities, labels = _per_image(seen, member.probabilities(logits).numpy(), truth)
        tables[name] = reliability(labels, probabilities, member.multi_label)
    failed = {str(path): reason for one in seen for path, reason in one.failed.items()}
    for number in range(len(members)):  # images that are in training alone
        failed |= read_json(member_folder(out, number) / "metrics.json", CheckpointError)["failed"]
    metrics = {
        **classification_metrics(labels, probabilities, ensemble.classes, ensemble.multi_label),
        "temperature": temperature,
        "expected_calibration_error": {name: expected_calibration_error(table) for name, table in tables.items()},
        "val_images": len(labels),
        "members": [
            {"run": str(member_folder(out, number)), "share": share, **_headline(member, one)}
            for number, (member, share, one) in enumerate(zip(calibrated, ensemble.shares, seen, strict=True))
        ],
        "training": to_json(prepared[0].training),
    }
    if (test := prepared[0].test) is not None:
        held = passes.over(calibrated, replace(test, multi_label=ensemble.multi_label), "test images")
        failed |= {str(path): reason for path, reason in held.failed.items()}
        votes = ensemble.vote(held.logits, held.features).numpy()
        metrics["test"] = {
            **classification_metrics(held.truth, votes, ensemble.classes, ensemble.multi_label),
            "expected_calibration_error": expected_calibration_error(
                reliability(held.truth, votes, ensemble.multi_label)
            ),
        }
    metrics["failed"] = failed
    write_image(out / "reliability.png", plot_reliability(tables))
    if not ensemble.multi_label:
        write_image(out / "confusion.png", plot_confusion(np.array(metrics["confusion"]), ensemble.classes))
    write_json(out / "metrics.json", metrics)
    ensemble.save(out)  # last: where it stands, the run is whole
    return metrics


def _per_image(
    seen: Sequence[Seen], probabilities: NDArray[np.float32], truth: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The mean of each image's rows, (images, classes), and its truth."""
    paths = [sample.path for one in seen for sample in one.data.samples]
    places = {path: place for place, path in enumerate(dict.fromkeys(paths))}
    rows = np.array([places[path] for path in paths])
    means = np.zeros((len(places), probabilities.shape[1]), np.float32)
    np.add.at(means, rows, probabilities)
    means /= np.bincount(rows)[:, None]
    labels = np.zeros((len(places), *truth.shape[1:]), truth.dtype)
    labels[rows] = truth
    return means, labels


def _headline(member: Classifier, seen: Seen) -> dict[str, float]:
    found = scores(member, seen.logits[0], seen.truth)
    error = calibration_error(member, seen.logits[0], seen.truth)
    return {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"], "expected_calibration_error": error}
