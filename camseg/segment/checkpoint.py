"""Run folders: what a segmenter's ``save`` wrote -> the segmenter that it was."""

from pathlib import Path
from typing import Final

import torch

from camseg.classify.network import load_run, read_settings
from camseg.segment.segmenter import Segmenter

SEGMENTER_FILES: Final = (
    "segmenter.json",
    "metrics.json",
    "training.safetensors",
    "model.safetensors",
    "history.csv",
    "curves.png",
    "reliability.png",
)
"""Every file that a training writes into its run."""


def load_segmenter(run: Path | str, device: str | torch.device = "cpu") -> Segmenter:
    """Load a segmenter run: the folder that ``train-seg`` or a ``save`` wrote.

    Raises CheckpointError when a file is missing or damaged, or the weights do not fit; InputError for a
    device that is not there.
    """
    run = Path(run)
    return load_run(Segmenter, run, read_settings(Segmenter, run), device)


def is_segmenter_run(run: Path | str) -> bool:
    """Whether a folder is a segmenter's run."""
    return Path(run, Segmenter.FILE).is_file()


def clear_segmenter_run(run: Path | str) -> None:
    """Remove a run's files from the folder ``run``, so that those of the next one stand there alone."""
    for name in SEGMENTER_FILES:
        Path(run, name).unlink(missing_ok=True)
