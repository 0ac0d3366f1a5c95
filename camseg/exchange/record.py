"""One line of ``corrections.jsonl``: what a person said of one mask, or changed in it."""

import json
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from camseg.base.errors import OutputError

CORRECTIONS: Final = "corrections.jsonl"
"""The file of corrections in an output folder; it grows by whole lines, and the last line of a mask counts."""
CORRECTED: Final = "corrected"
"""The folder of corrected masks in an output folder."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(use_attribute_docstrings=True, validate_by_name=True))
class Correction:
    """What a person said of the mask of one class in one image, or changed in it."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    input: str
    """The image's path below the folder of images, with its suffix, as in the manifest."""
    class_name: Annotated[str | None, Field(alias="class")] = None
    """The class; null where the manifest names none."""
    decision: Literal["accepted", "edited", "rejected", "empty"]
    """accepted: right as it is; edited: changed; rejected: wrong, and nobody has drawn a better one; empty: there is no
    such object."""
    file: str | None = None
    """The machine's mask that it is about, as a path below the output folder; null where the machine had none."""
    corrected: str | None = None
    """The mask that takes its place, below the output folder: of edited ones, and all black of empty ones."""
    iou: float | None = None
    """Intersection over union of the masks before and after; 1 where both are empty."""
    seconds: float | None = None
    """The time that it took; null where the tool does not say."""
    tool: str
    """Where it was done: review, cvat, label-studio, labelme, ..."""
    annotator: str | None = None
    """Who did it, as the tool names people; null where it does not."""
    mask_sha256: str | None = None
    """SHA-256 of the machine's file that was shown; a correction of another one than lies there does not count."""
    time: str
    """When it was done or brought in: ISO 8601, UTC."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else the tool says, JSON values only."""


_ADAPTER: Final = TypeAdapter(Correction)


def correction_to_line(correction: Correction) -> str:
    """A correction as a line of JSON."""
    values = _ADAPTER.dump_python(correction, mode="json", by_alias=True)
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"


def correction_from_line(line: bytes | str) -> Correction:
    """The correction of a line; raises ValueError for one that is damaged or whose files lie outside the folder."""
    try:
        correction: Correction = _ADAPTER.validate_python(json.loads(line))
    except RecursionError:
        raise ValueError("brackets without end") from None
    for file in filter(None, (correction.file, correction.corrected)):
        path = PurePosixPath(file.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("files outside the folder")
    return correction


def read_corrections(folder: Path | str) -> list[Correction]:
    """All lines of ``folder/corrections.jsonl`` in their order; [] where there is none.

    A kill may have cut the last line short, which then is left out. Raises OutputError for another damaged line.
    """
    path = Path(folder) / CORRECTIONS
    if not path.is_file():
        return []
    corrections: list[Correction] = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            corrections.append(correction_from_line(line))
        except ValueError:
            raise OutputError(f"{path}: line {number} is damaged; remove that line") from None
    return corrections
