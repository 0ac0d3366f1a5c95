"""One line of a manifest: what became of one image and class."""

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

SCHEMA_VERSION: Final = 3
"""Of manifests and run.json; folders of another version are not continued. Lines of version 2, which say nothing of
quality, are read."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(use_attribute_docstrings=True))
class Source:
    """Where an image that ``prepare`` wrote was taken from, so that a mask of it can be put back there."""

    name: str
    """The name of the input, or of the image paired with it; a pseudonym where IDs are not kept."""
    frame: int | None = None
    """Which of its frames, or of its slices along the axis, from 0; null where it has one."""
    axis: str | None = None
    """axial, coronal or sagittal, for a slice of a volume."""
    instance: str | None = None
    """The SOP instance UID of a DICOM object, or where IDs are not kept the start of its SHA-256."""
    box: tuple[int, int, int, int] | None = None
    """Top, left, bottom and right of a crop in pixels, the ends not included; null for the whole image."""
    window: tuple[float, float] | None = None
    """The values that became black and white; null where not two values say it."""
    group: str
    """The patient, volume or video."""
    beside_sha256: str | None = None
    """SHA-256 over what decided it beside what the files hold: their names, and the table's group and pair; null where
    it was made of one file alone."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(use_attribute_docstrings=True, validate_by_name=True))
class Record:
    """What became of one image and class. Stages fill in what they decide; what has not been decided is null."""

    schema_version: Literal[2, 3] = SCHEMA_VERSION
    """Version of this schema."""
    input: str
    """The input's path below the folder of inputs, with its suffix."""
    name: str
    """That path without suffix: what the lines of one input share."""
    input_sha256: str | None = None
    """SHA-256 over what the input's files held: the image, or all that a single command read for it."""
    labels: tuple[str, ...] | None = None
    """The labels that the input had; [] = none of the classes, null = not known."""
    class_name: Annotated[str | None, Field(alias="class")] = None
    """The class that the map or mask is of; null where no network chose one."""
    files: dict[str, str] = field(default_factory=dict)
    """The files written, by their kind (or the method, for maps), as paths below the output folder."""
    score: float | None = None
    """The class's probability; of a segmentation network the highest of a pixel."""
    method: str | None = None
    """CAM methods, joined by commas; probability where a segmentation network gave the map."""
    layer: str | None = None
    """Layers, joined by commas; those of an ensemble's members by semicolons."""
    scales: tuple[float, ...] | None = None
    """Input sizes, relative to the classifier's, whose maps were fused."""
    empty: str | None = None
    """Why the map is all zero, the mask empty, or none was made; null where there is something in it."""
    agreement: float | None = None
    """Of an ensemble, in [0, 1]: the mean Dice of its members' masks with each other; null for one network."""
    propagation: str | None = None
    """The propagator; none where maps were left as they were."""
    threshold: str | None = None
    """The threshold, as a text or the file that holds it; likeliest where the likeliest of exclusive classes won."""
    refiner: str | None = None
    """The refiner that decided, or that was to."""
    fallback: str | None = None
    """Why no refiner decided, if one was to, or not for every part of the mask."""
    area: int | None = None
    """Pixels of the mask."""
    quality: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """How far the mask can be trusted: the mean of its agreements and its score, or once camseg quality has calibrated
    it the probability that it is right; null where nothing tells."""
    quality_reasons: tuple[str, ...] = ()
    """What speaks against the mask, in words."""
    agreements: dict[str, float] = field(default_factory=dict)
    """The mean Dice among what the mask becomes where something is varied, in [0, 1], by what that is: members of an
    ensemble, views, of these scales, flips and layers alone, the chosen level and a higher one, refinement on and
    off."""
    source: Source | None = None
    """Of images that prepare wrote: where they were taken from."""
    status: Literal["ok", "failed"] = "ok"
    """failed: nothing of it was written, and error says why."""
    error: str | None = None
    """One line that names the file."""

    @property
    def failed(self) -> bool:
        """Whether nothing was written."""
        return self.status == "failed"


_ADAPTER: Final = TypeAdapter(Record)


def to_line(record: Record) -> str:
    """A record as a line of JSON."""
    values = _ADAPTER.dump_python(record, mode="json", by_alias=True)
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"


def from_line(line: bytes | str) -> Record:
    """The record of a line; raises ValueError for one that is damaged or whose files lie outside the folder."""
    record: Record
    try:
        record = _ADAPTER.validate_json(line)
    except ValueError:  # also of texts that hold bytes which are no UTF-8, as names of files may; these are read slowly
        try:
            record = _ADAPTER.validate_python(json.loads(line))
        except RecursionError:
            raise ValueError("brackets without end") from None
    # A manifest may come from anywhere; --overwrite must not follow it out of its folder.
    if any(map(_leads_out, record.files.values())):
        raise ValueError("files outside the folder")
    return record


def _leads_out(file: str) -> bool:
    if not (".." in file or ":" in file or file.startswith(("/", "\\"))):
        return False  # at once, for nearly all
    return PurePath(file).is_absolute() or ".." in PurePath(file).parts


def schema() -> Mapping[str, Any]:
    """The JSON schema of a line."""
    return _ADAPTER.json_schema(by_alias=True, mode="serialization")
