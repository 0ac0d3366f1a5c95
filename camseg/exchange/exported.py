"""What was exported, so that an import can tell a correction of the mask that lies there from one of another:
``exported.jsonl`` in the folder that the masks are of."""

import json
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from camseg.base.errors import OutputError
from camseg.base.files import append_lines, whole_lines

EXPORTED: Final = "exported.jsonl"
"""The file in an output folder; it grows by whole lines, for what comes back may be of any export."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(use_attribute_docstrings=True, validate_by_name=True))
class Exported:
    """The mask of one class in one image as it was exported."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    format: str
    """The format, as ``camseg export`` names it."""
    input: str
    """The image, as in the manifest."""
    class_name: Annotated[str, Field(alias="class")]
    """The class as it was exported."""
    mask_sha256: str | None
    """SHA-256 of the machine's file; null where the machine made no mask of the class."""
    tolerance: float = 0.0
    """How many pixels its polygons may lie off; 0 where nothing was lost."""
    time: str
    """When: ISO 8601, UTC."""


_ADAPTER: Final = TypeAdapter(Exported)


def add_exported(folder: Path, lines: list[Exported]) -> None:
    """Write down what was exported. Raises OSError where the folder cannot be written to."""
    values = (_ADAPTER.dump_python(line, mode="json", by_alias=True) for line in lines)
    append_lines(folder / EXPORTED, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in values))


def read_exported(folder: Path, name: str) -> dict[str, dict[str, list[Exported]]]:
    """What was exported in a format, by image and class, the last one at the end; {} where nothing was.

    A kill may have cut the last line short, which then is left out. Raises OutputError for another damaged line.
    """
    found: dict[str, dict[str, list[Exported]]] = {}
    for number, text in enumerate(whole_lines(folder / EXPORTED), start=1):
        try:
            line = _ADAPTER.validate_python(json.loads(text))
        except (ValueError, RecursionError):
            raise OutputError(f"{folder / EXPORTED}: line {number} is damaged; remove that line") from None
        if line.format == name:
            found.setdefault(line.input, {}).setdefault(line.class_name, []).append(line)
    return found
