"""The one form in which masks travel to other tools and back: images with the masks of their classes.

Every exporter is a function of it, and every importer returns it. Masks are the truth; polygons are made of them where
a format has nothing better. No mask is empty: an image without an object has no annotation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from camseg.base.arrays import Mask, check_mask
from camseg.base.errors import InputError
from camseg.runs.corrections import Decision
from camseg.runs.record import Source


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """The mask of one class in one image. Raises InputError for an empty mask, or one of another size."""

    image: str
    """The image's path below the folder of images, with its suffix and ``/`` between."""
    width: int
    """Of the image as shown, that is turned as EXIF says, in pixels."""
    height: int
    """The same."""
    class_name: str
    """What the mask shows."""
    mask: Mask
    """bool (height, width), true somewhere."""
    score: float | None = None
    """The class's probability in [0, 1]; None where no network said one."""
    quality: float | None = None
    """How far the mask can be trusted, in [0, 1]; None where nothing tells."""
    provenance: str = ""
    """What made the mask: methods joined by commas, or the tool that a person changed it with; "" where nothing tells.
    """
    decision: Decision | None = None
    """What a person said of it; None where nobody has looked."""

    def __post_init__(self) -> None:
        if check_mask(self.mask).shape != (self.height, self.width):
            size = f"{self.mask.shape[1]} x {self.mask.shape[0]}"
            raise InputError(
                f"{self.image}: expected a mask of the image's size, {self.width} x {self.height}; it is {size} "
                "(width x height)"
            )
        if not self.mask.any():
            raise InputError(f"{self.image}: the mask of {self.class_name!r} is empty; leave the annotation out")

    @property
    def by_person(self) -> bool:
        """Whether a person vouches for the mask."""
        return self.decision in ("accepted", "edited")

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedImage:
    """One image with all masks that are known of it; none says that it holds no object."""

    name: str
    """Its path below the folder of images, with its suffix and ``/`` between."""
    width: int
    """As shown, that is turned as EXIF says, in pixels."""
    height: int
    """The same."""
    annotations: tuple[Annotation, ...] = ()
    """One mask per class and object, in the order of the classes; where tools stack them, later ones lie on top."""
    path: Path | None = None
    """The image file; None where only its name is known, as of an import."""
    source: Source | None = None
    """Of images that ``prepare`` wrote: where they were taken from."""
    turned: bool = False
    """Whether EXIF turns the file's pixels, so that programs which ignore it show others."""
    hashes: Mapping[str, str | None] = field(default_factory=dict)
    """By class, the empty ones too: SHA-256 of the machine's mask that was shown, None where it made none."""
    classes: tuple[str, ...] | None = None
    """Of an import: the classes that it speaks of, so that those without a mask are not in the image; None where only
    those with one are."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Of an import: the kind and the class of each shape that is no mask."""
    seen: bool | None = None
    """Of an import: whether a person looked at the image; None where the tool does not tell."""
    annotator: str | None = None
    """Of an import: who did, as the tool names people; None where it does not."""
    seconds: float | None = None
    """Of an import: the time that the image took; None where the tool does not say."""
    time: str | None = None
    """Of an import: when it was done, ISO 8601; None where the tool does not say."""

    def __post_init__(self) -> None:
        for one in self.annotations:
            if (one.image, one.width, one.height) != (self.name, self.width, self.height):
                raise InputError(f"{self.name}: it has an annotation of another image or size, {one.image}")

    @property
    def stem(self) -> str:
        """The name without suffix, as camseg's own outputs carry it."""
        return PurePosixPath(self.name).with_suffix("").as_posix()
