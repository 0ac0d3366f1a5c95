"""Classifier runs -> an ensemble's run: the members' shares, the rule over their features, its scores beside theirs."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from camseg.base.device import find_device
from camseg.base.errors import CheckpointError, DatasetError, InputError, OutputError
from camseg.base.files import check_can_write, read_json, write_json
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.classify.checkpoint import RUN_FILES, clear_run, load_network
from camseg.classify.classifier import Classifier
from camseg.classify.ensemble import Ensemble, LinearRule
from camseg.classify.settings import Voting
from camseg.data.datasets import Dataset, image_places, load_training_data
from camseg.data.images import write_image
from camseg.label.agreement import set_agreement
from camseg.measure.calibration import UNTOLD, fit_temperature
from camseg.measure.figures import plot_confusion
from camseg.measure.metrics import classification_metrics, expected_calibration_error, reliability
from camseg.runs.loop import check_apart
from camseg.studies.settings import EnsembleSettings, MemberWeights
from camseg.train.parts import load_parts
from camseg.train.passes import Passes, Seen
from camseg.train.plan import trained_on

_WRITTEN_FIRST: Final = ("metrics.json", "confusion.png", "rule.safetensors")
"""An ensemble's files that stand there before its ``classifier.json`` does."""
_TRAINED: Final = ("metrics.json", "history.csv", "training.safetensors")
"""Files of a member that is trained, or in training, where it lies."""
STRENGTHS: Final = tuple(10.0**power for power in range(-6, 1))
"""Values of C, the inverse strength of the penalty, that are tried for a rule."""


def make_ensemble(
    runs: Sequence[Path | str],
    out: Path | str,
    settings: EnsembleSettings | None = None,
    *,
    train: Dataset | None = None,
    val: Dataset | None = None,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> dict[str, Any]:
    """Join runs that are one network each into the run ``out``; return its validation metrics, none without ``val``.

    ``soft`` joins two or more; a rule may be over the features of one.

    ``logistic`` and ``svm`` fit a rule on the images of ``train``, with the C and the temperature that have the least
    cross-entropy on ``val``, as the metrics, which are of the same images, say; for them ``weights`` says only what the
    members' maps count. Writes the members, ``classifier.json``, ``rule.safetensors``, ``metrics.json`` and
    ``confusion.png``. Images that some member cannot read are left out for all.

    Raises InputError for members that do not go together, or methods and data that do not; OutputError when ``out``
    holds a run, finished or not, or lies where a member does; DatasetError for data that do not fit the classifiers, or
    that not all members can read.
    """
    settings, out = settings or EnsembleSettings(), Path(out)
    method = settings.method
    if len(runs) < (2 if method == "soft" else 1):
        raise InputError(
            f"expected at least two runs to join, got {len(runs)}; one alone can be given a rule over its features by "
            "logistic or svm"
        )
    if method != "soft" and (train is None or val is None):
        raise InputError(f"{method} is fitted on labelled images; name them with --data, or choose soft")
    if settings.weights == "agreement" and train is None and val is None:
        raise InputError("agreement is measured on images; name them with --data or --val, or choose other weights")
    _check_out(runs, out, overwrite)
    place = find_device(device)
    members = tuple(load_network(run, place) for run in runs)
    ensemble = Ensemble(members=members, shares=_shares(runs, settings.weights))
    train, val = (part and replace(part, multi_label=ensemble.multi_label) for part in (train, val))
    for part in (train, val):
        if part is not None:
            part.targets(ensemble.classes)
    if val is not None:
        _warn(runs, members, val, say)
    if dry_run:
        return {}
    if settings.weights == "agreement":
        samples = [sample for part in (train, val) if part is not None for sample in part.samples]
        agreement = set_agreement(ensemble, samples, progress)
        ensemble = replace(ensemble, shares=agreement.shares)
        say(agreement.line())
    metrics: dict[str, Any] = {}
    if val is not None:
        passes = Passes(features=method != "soft", batch_size=settings.batch_size, progress=progress)
        seen = passes.over(members, val, "validation images")
        facts: dict[str, Any] = {"method": method, "val_images": len(seen.truth)}
        failed = seen.failed
        if method != "soft" and train is not None:
            learned = passes.over(members, train, "training images")
            rule, chosen = _fit_rule(method, learned, seen, ensemble)
            if chosen["temperature"] == 1.0:
                say(f"{len(seen.truth)} {UNTOLD}")
            ensemble = replace(ensemble, method=method, rule=rule)
            facts |= {"train_images": len(learned.truth), **chosen, "chosen_on": "the validation images scored here"}
            failed = {**failed, **learned.failed}
        metrics = {
            **_metrics(ensemble.vote(seen.logits, seen.features), seen.truth, ensemble),
            **facts,
            "members": [
                {"run": str(run), "share": share, **_headline(member, logits, seen.truth, ensemble)}
                for run, share, member, logits in zip(runs, ensemble.shares, members, seen.logits, strict=True)
            ],
            "failed": {str(path): reason for path, reason in failed.items()},
        }
    clear_run(out)
    if metrics:
        if not ensemble.multi_label:
            write_image(out / "confusion.png", plot_confusion(np.array(metrics["confusion"]), ensemble.classes))
        write_json(out / "metrics.json", metrics)
    ensemble.save(out)
    return metrics


def read_parts(
    settings: EnsembleSettings, out: Path | str, *, data: Path | str | None, val: Path | str | None
) -> tuple[Dataset | None, Dataset | None]:
    """The images to fit a rule on, and those to evaluate on: of ``data`` as trainings split it, or ``val``.

    Raises what loading and splitting do, and InputError for images in the output folder.
    """
    train = held = None
    if data is not None:
        train, held, _ = load_parts(
            data,
            val=val,
            val_fraction=settings.val_fraction,
            test_fraction=settings.test_fraction,
            seed=settings.seed,
        )
    elif val is not None:
        held = load_training_data(val)
    for part in (train, held):
        if part is not None:
            check_apart(part, Path(out))
    return train, held


def _check_out(runs: Sequence[Path | str], out: Path, overwrite: bool) -> None:
    check_can_write(out)
    places = [Path(run).resolve() for run in runs]
    for place in places:
        if place.is_relative_to(out.resolve()):
            raise OutputError(f"the member {place} lies in the output folder {out}; choose another --out")
    if len(set(places)) < len(places):
        raise InputError(f"expected different runs, got {', '.join(map(str, runs))}; --weights lets one count more")
    # One that was killed while it was written has none of the others, and is written again.
    left = [out / name for name in RUN_FILES if name not in _WRITTEN_FIRST and (out / name).exists()]
    # Nor do its copies of members have what their trainings left.
    left += [file for name in _TRAINED for file in out.glob(f"members/*/{name}")]
    if left and not overwrite:
        name = left[0].relative_to(out).as_posix()
        raise OutputError(f"{out} holds a run, finished or not ({name}); choose another --out, or --overwrite it")


def _warn(runs: Sequence[Path | str], members: Sequence[Classifier], val: Dataset, say: Say) -> None:
    """Say which members learned from validation images: their scores there, and a rule chosen there, are too good."""
    places = image_places(val)
    for run, member in zip(runs, members, strict=True):
        parts = trained_on(member)
        if parts and (learned := len(places & parts[0])):
            say(
                f"{run} learned from {learned} of the {len(places)} validation images; its scores there are too good: "
                "repeat its split (--seed, --val-fraction, --test-fraction), or give other images as --val"
            )


def _shares(runs: Sequence[Path | str], weights: MemberWeights) -> tuple[float, ...]:
    if isinstance(weights, str):
        # How far they agree is not known yet.
        numbers = tuple(_accuracy(Path(run)) if weights == "accuracy" else 1.0 for run in runs)
    else:
        numbers = weights
    total = sum(numbers)
    if len(numbers) != len(runs) or not all(one >= 0 for one in numbers) or not 0 < total < math.inf:
        raise InputError(
            f"expected {len(runs)} weights of at least 0, not all 0, with a finite sum; got {list(numbers)}"
        )
    return tuple(number / total for number in numbers)


def _accuracy(run: Path) -> float:
    metrics = read_json(run / "metrics.json", CheckpointError)
    try:
        return float(metrics["accuracy"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{run / 'metrics.json'} tells no accuracy; give --weights as numbers") from None


def _fit_rule(method: Voting, train: Seen, val: Seen, ensemble: Ensemble) -> tuple[LinearRule, dict[str, float]]:
    """The rule with the least cross-entropy on the validation images, with its C and temperature.

    Its scores become probabilities by a softmax (multi-label: sigmoid) of them divided by the temperature, which the
    rule's coefficients and intercepts contain: Platt's sigmoid without its offset, so that decisions stay the rule's.
    """
    x, y = (
        torch.cat([one for one in part.features if one is not None], dim=1).numpy().astype(np.float64)
        for part in (train, val)
    )  # (N, F) each
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1.0
    x, y = (x - mean) / scale, (y - mean) / scale
    best = None
    for strength in STRENGTHS:
        coefficients, intercepts = _fit(method, x, train.truth, strength, ensemble.classes)
        logits = y @ coefficients.T + intercepts
        temperature = fit_temperature(logits, val.truth, ensemble.multi_label)
        loss = _cross_entropy(logits / temperature, val.truth)
        if best is None or loss < best[0]:
            best = loss, strength, temperature, coefficients / temperature, intercepts / temperature
    assert best is not None
    _, strength, temperature, coefficients, intercepts = best
    arrays = {"mean": mean, "scale": scale, "coefficients": coefficients, "intercepts": intercepts}
    rule = LinearRule(**{name: torch.from_numpy(array).float() for name, array in arrays.items()})
    return rule, {"C": strength, "temperature": temperature}


def _fit(
    method: Voting, x: NDArray[np.float64], truth: NDArray[Any], strength: float, classes: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (classes, F) and intercepts (classes,); rare classes count as much as frequent ones."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    several = truth.ndim == 2  # multi-label: a rule for each class of its own
    for index, name in enumerate(classes):
        count = int((truth[:, index] > 0).sum() if several else (truth == index).sum())
        if count in (0, len(truth)):
            raise DatasetError(f"{count} of {len(truth)} training images show {name!r}; a rule needs some, and others")
    rows = []
    for labels in truth.T if several else [truth]:
        model = (
            LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
            if method == "logistic"
            else LinearSVC(C=strength, class_weight="balanced", random_state=0)
        )
        with warnings.catch_warnings():
            # One that has not converged competes by its validation loss like the others.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, labels)
        rows.append((model.coef_, model.intercept_))
    coefficients, intercepts = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    if len(coefficients) == len(classes):
        return coefficients, intercepts
    # Of two classes scikit-learn gives one score d; a softmax of -d/2 and d/2 is its sigmoid.
    halves = np.array([-0.5, 0.5])
    return halves[:, None] * coefficients, halves * intercepts


def _cross_entropy(logits: NDArray[np.float64], truth: NDArray[Any]) -> float:
    scores, wanted = torch.from_numpy(logits), torch.from_numpy(truth)
    if truth.ndim == 2:  # multi-label
        return float(functional.binary_cross_entropy_with_logits(scores, wanted.double()))
    return float(functional.cross_entropy(scores, wanted))


def _metrics(probabilities: Tensor, truth: NDArray[Any], ensemble: Ensemble) -> dict[str, Any]:
    scores = probabilities.numpy()
    found = classification_metrics(truth, scores, ensemble.classes, ensemble.multi_label)
    table = reliability(truth, scores, ensemble.multi_label)
    return {**found, "expected_calibration_error": expected_calibration_error(table)}


def _headline(member: Classifier, logits: Tensor, truth: NDArray[Any], ensemble: Ensemble) -> dict[str, float]:
    order = [member.class_index(name) for name in ensemble.classes]
    found = _metrics(member.probabilities(logits)[:, order], truth, ensemble)
    return {name: found[name] for name in ("accuracy", "macro_f1", "expected_calibration_error")}
