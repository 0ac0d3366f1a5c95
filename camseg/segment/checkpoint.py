"""Run folders: what a segmenter's ``save`` wrote -> the segmenter that it was."""

from pathlib import Path

import torch

from camseg.classify.network import load_run, read_settings
from camseg.segment.segmenter import Segmenter


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
