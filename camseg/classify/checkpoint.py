"""Run folders: what ``save`` wrote -> the classifier or ensemble that it was."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import safetensors.torch
import torch
from safetensors import SafetensorError

from camseg.base.device import find_device
from camseg.base.errors import CheckpointError, InputError
from camseg.classify.classifier import Classifier
from camseg.classify.ensemble import Ensemble, LinearRule, member_folder
from camseg.classify.network import load_run, read_settings

RUN_FILES: Final = (
    "classifier.json",
    "segmenter.json",
    "metrics.json",
    "training.safetensors",
    "model.safetensors",
    "rule.safetensors",
    "history.csv",
    "curves.png",
    "reliability.png",
    "confusion.png",
)
"""Every file that trainings of either kind and ensembles write into a run, beside an ensemble's members."""
AnyClassifier: TypeAlias = Classifier | Ensemble
"""What decides on images: one network, or several of them."""


def load_classifier(run: Path | str, device: str | torch.device = "cpu") -> AnyClassifier:
    """Load a classifier run: the folder that ``train-cls``, ``ensemble`` or a ``save`` wrote.

    Raises CheckpointError when a file is missing or damaged, or the weights do not fit; InputError for a
    device that is not there.
    """
    run = Path(run)
    settings = read_settings(Classifier, run)
    if "members" not in settings:
        return load_network(run, device)
    device = find_device(device)
    try:
        return Ensemble(
            members=tuple(load_network(member_folder(run, n), device) for n in range(settings["members"])),
            shares=tuple(settings["shares"]),
            method=settings["method"],
            run=os.path.abspath(run),
            rule=None if settings["method"] == "soft" else _read_rule(run),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{run / 'classifier.json'} is not an ensemble's settings ({error!r})") from None
    except InputError as error:
        raise CheckpointError(f"{run / 'classifier.json'}: {error}") from None


def load_network(run: Path | str, device: str | torch.device = "cpu") -> Classifier:
    """Load a classifier run that is one network, as ``load_classifier`` does; InputError for an ensemble."""
    run = Path(run)
    settings = read_settings(Classifier, run)
    if "members" in settings:
        raise InputError(f"{run} is an ensemble, and one network is needed; name a member, such as {run}/members/0")
    return load_run(Classifier, run, settings, device)


def clear_run(run: Path | str) -> None:
    """Remove the files and members of a run of any kind from the folder ``run``: the next one stands there alone."""
    for name in RUN_FILES:
        Path(run, name).unlink(missing_ok=True)
    members = [path for path in Path(run, "members").glob("[0-9]*") if path.is_dir()]
    for member in members:
        clear_run(member)
    for folder in (*members, Path(run, "members")):
        with suppress(OSError):  # it is not there, or holds something else
            folder.rmdir()


def _read_rule(run: Path) -> LinearRule:
    """The rule that ``Ensemble.save`` wrote; CheckpointError where it is missing or damaged."""
    path = run / "rule.safetensors"
    try:
        return LinearRule(**safetensors.torch.load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise CheckpointError(f"{path}: not the rule of an ensemble ({' '.join(str(error).split())[:200]})") from None
