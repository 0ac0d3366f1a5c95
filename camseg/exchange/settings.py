"""How masks are written for other tools."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from camseg.base.settings import Option, settings
from camseg.data.mask_settings import MaskReading

Transfer: TypeAlias = Literal["copy", "link", "none"]
Geometry: TypeAlias = Literal["mask", "polygon"]
Verdict: TypeAlias = Literal["accepted", "edited", "rejected", "empty", "unseen"]
"""A person's decision, or that nobody has looked."""


@settings
class ExportInputs:
    """What the masks of a folder are of, where it does not tell."""

    image_folder: Annotated[Path | None, Option(metavar="IMAGES")] = None
    """Where the images of the masks lie: a folder or CSV; default: where run.json says."""
    class_name: str | None = None
    """What masks show whose class no manifest and no folder names; default: the image's label, else object."""


@settings
class ExportSettings:
    """What is exported, and how."""

    images: Transfer = "copy"
    """The images themselves: copied into the folder, linked there, or left where they are."""
    only: tuple[Verdict, ...] = ()
    """Masks of which a person said so; unseen: nobody has looked; default: all but the rejected."""
    min_quality: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Leave out images with a mask of less quality, or of unknown one; what a person accepted or edited stays."""
    only_images: Annotated[Path | None, Option(metavar="LIST")] = None
    """Only these images: a text file with a path on each line, as of the images that a task of CVAT holds."""
    classes: Annotated[tuple[str, ...], Option(flags=("--class",), metavar="NAME")] = ()
    """The classes in the order of their numbers, from 1 or from 0 as the format counts; masks of others are left out.
    Default: all that are found, sorted."""
    geometry: Geometry | None = None
    """Masks as they are, or polygons around them; default: masks where the format has them."""
    tolerance: Annotated[float, Field(ge=0.0)] = 0.0
    """How many pixels a polygon may lie off; at 0 it loses nothing and has a point for every corner of the mask."""
    pieces: bool = False
    """Every connected part of a mask becomes an object of its own."""
    sources: Annotated[Path | None, Option(metavar="PATH")] = None
    """For nifti and dicom-seg, the volumes or DICOM files that camseg prepare made the images of; default: where its
    run.json says."""
    images_root: Annotated[str, Option(metavar="FOLDER")] = ""
    """For label-studio, where its server finds the images: their folder, below the root of its local files."""


@settings
class ImportSettings:
    """How corrections are brought in."""

    unchanged: Literal["accepted", "unseen"] | None = None
    """Masks that come back as they were: looked at and right, or perhaps not looked at; default: accepted where the
    tool says that a person looked (Label Studio's annotations, what CVAT calls manual), else unseen."""
    exclusive: bool = False
    """A pixel belongs to the topmost shape alone, as tools show it; default: masks of several classes may overlap."""
    annotator: Annotated[str | None, Option(metavar="NAME")] = None
    """Who corrected, where the file does not tell."""
    reading: MaskReading = field(default_factory=MaskReading)
    """How masks of the format png are read, and those of a folder that camseg did not write."""
