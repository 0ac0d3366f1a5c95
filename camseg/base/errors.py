"""Every error that camseg raises on purpose, and how errors are put into one line.

A message says what was expected, what came, and what to do. The library never prints and never
exits: ``camseg.cli`` turns a ``CamsegError`` into one line and an exit code.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


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


class ExchangeError(CamsegError):
    """A file of another tool, or a part of one, that cannot be read or written."""


class CorrectionError(CamsegError):
    """What a person says of a mask, where there is no such image or class, or the mask is of another size."""


class StaleMaskError(CorrectionError):
    """What a person said of another mask than the one that lies there now."""


class OutputError(CamsegError):
    """An output folder that cannot take this run: other settings, or names that collide."""


class RemoteError(CamsegError):
    """An address that does not exist, or cannot be reached, read or written."""


class OtherSettingsError(OutputError):
    """An output folder that was written with other settings; ``changes`` has the old and the new value of each."""

    def __init__(self, folder: Path, changes: Mapping[str, tuple[Any, Any]]) -> None:
        self.folder, self.changes = folder, changes
        super().__init__(self.worded(lambda setting: setting))

    def worded(self, name: Callable[[str], str]) -> str:
        """The message; ``name`` says what a setting is called."""
        said = "; ".join(f"{name(one)} {_shown(old)} -> {_shown(new)}" for one, (old, new) in self.changes.items())
        return (
            f"{self.folder} was written with other settings ({said}); repeat those to continue it, choose another "
            "--out, or --overwrite"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.changes)


def first_line(error: BaseException) -> str:
    """What an error of a library says, cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def failure_line(path: Path, error: Exception) -> str:
    """What an error says, on one line that names the file; those that nobody foresaw also say their kind."""
    place, text = (" ".join(str(part).split()) for part in (path, error))
    text = text if isinstance(error, CamsegError) else f"{type(error).__name__}: {text}"
    return text if place in text else f"{place}: {text}"


def _shown(value: Any) -> str:
    """A setting's value in a few characters, as the command line would take it."""
    if value is None or value in ((), [], {}):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    text = ",".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:20]}...{text[-20:]}"
