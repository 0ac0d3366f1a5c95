"""Every error that camseg raises on purpose, and how errors are put into one line.

A message says what was expected, what came, and what to do. The library never prints and never
exits: ``camseg.cli`` turns a ``CamsegError`` into one line and an exit code.
"""

from pathlib import Path


class CamsegError(Exception):
    """Anything that camseg refuses, in words for the person who called it."""


class InputError(CamsegError, ValueError):
    """An argument, option, array or file of settings that cannot be used as it is."""


class ImageError(CamsegError):
    """One image file that cannot be read: missing, corrupt, truncated, empty or not an image."""


class DatasetError(CamsegError):
    """A folder or CSV from which no samples and labels can be had."""


class CheckpointError(CamsegError):
    """A classifier run, weights file or training state that cannot be loaded."""


class WeightsUnavailableError(CheckpointError):
    """Pretrained weights that would have to be downloaded and cannot be."""


class LayerError(CamsegError):
    """A layer that does not exist in the model, or whose output is no spatial map."""


class ThresholdError(InputError):
    """A threshold outside the grammar, or a threshold file that says nothing usable."""


class TrimapError(CamsegError):
    """A trimap from which no refiner can learn; ``reason`` is what a manifest records."""

    reason = "unusable trimap"


class EmptyForegroundError(TrimapError):
    """No pixel of the trimap is known to be foreground."""

    reason = "empty foreground"


class EmptyBackgroundError(TrimapError):
    """No pixel of the trimap is known to be background."""

    reason = "empty background"


class AllKnownError(TrimapError):
    """No pixel of the trimap is unknown: there is nothing to refine."""

    reason = "all known"


class SolverError(CamsegError):
    """A refiner whose solver failed on this image; ``reason`` is what a manifest records."""

    reason = "solver failed"


class WorkerError(CamsegError):
    """A worker process that ended in the middle of its work."""


class EvaluationError(CamsegError):
    """Predictions and true masks that do not match: one is missing, or has another size."""


class OutputError(CamsegError):
    """An output folder that cannot take this run: other settings, or names that collide."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def failure_line(path: Path, error: Exception) -> str:
    """What an error says, on one line that names the file; those that nobody foresaw also say their kind."""
    place, text = (" ".join(str(part).split()) for part in (path, error))
    text = text if isinstance(error, CamsegError) else f"{type(error).__name__}: {text}"
    return text if place in text else f"{place}: {text}"
