"""Images and masks that have not been read: what is known of them, and how they are read."""

from dataclasses import dataclass, replace
from pathlib import Path

from camseg.base.arrays import Mask
from camseg.base.errors import ImageError
from camseg.data.images import ImageHeader, read_header, read_mask_and_void
from camseg.data.mask_settings import MaskReading
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.runs.corrections import CORRECTED, Correction, Decided, Decision
from camseg.runs.record import Source


@dataclass(frozen=True, kw_only=True)
class ListedMask:
    """A mask that has not been read: where it lies and what is known of it."""

    class_name: str
    """What it shows."""
    file: Path | None
    """The machine's mask; None where a person drew the only one."""
    corrected: Path | None = None
    """The mask that a person put in its place."""
    decision: Decision | None = None
    """What a person said of it; None where nobody has looked."""
    score: float | None = None
    """The class's probability."""
    quality: float | None = None
    """How far the machine's mask can be trusted."""
    provenance: str = ""
    """As in ``Annotation``."""
    empty: bool = False
    """Whether the manifest, or a person, says that there is nothing in it."""
    told: bool = True
    """Whether the manifest or a folder names the class."""
    line: Correction | None = None
    """The line that says what a person said of it."""
    stale: bool = False
    """Whether a person said it of another mask than the one that lies there now."""

    @property
    def shown(self) -> Path:
        """The file that counts."""
        found = self.corrected or self.file
        assert found is not None
        return found


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """An image that has not been read."""

    name: str
    """Its path below the folder of images, with its suffix and ``/`` between."""
    path: Path | None
    """The file; None where it was not found."""
    masks: tuple[ListedMask, ...] = ()
    """In the order of the classes."""
    source: Source | None = None
    """Of images that ``prepare`` wrote: where they were taken from."""


def with_decision(mask: ListedMask, decided: Decided) -> ListedMask:
    """The mask with what a person said of it, and drew in its place."""
    if decided.decision is None:
        return replace(mask, stale=decided.stale)
    line = decided.correction
    if not decided.drawn:
        return replace(mask, decision=decided.decision, line=line)
    # Where a folder holds one mask per image, the one that a person drew there may show another class.
    name = mask.class_name if line is None or line.class_name is None else line.class_name
    return replace(
        mask,
        class_name=name,
        decision=decided.decision,
        corrected=decided.file,
        line=line,
        provenance=CORRECTED if line is None else line.tool,
        empty=decided.decision == "empty",
    )


def read_listed(one: ListedImage, reading: MaskReading | None = None) -> AnnotatedImage:
    """Read the masks of an image, the empty ones left out.

    Raises ImageError for a file that cannot be read, or a mask of another size than the image.
    """
    header = None if one.path is None else read_header(one.path)
    masks = [(mask, read_shown(mask, reading)) for mask in one.masks]
    if header is None:
        if not masks:
            raise ImageError(f"{one.name}: neither the image nor a mask is there to tell its size")
        header = ImageHeader(masks[0][1].shape[1], masks[0][1].shape[0], False)
    for listed, mask in masks:
        _check_size(listed.shown, mask, header)
    return AnnotatedImage(
        name=one.name,
        width=header.width,
        height=header.height,
        path=one.path,
        source=one.source,
        turned=header.turned,
        annotations=tuple(
            Annotation(
                image=one.name,
                width=header.width,
                height=header.height,
                class_name=listed.class_name,
                mask=mask,
                score=listed.score,
                quality=listed.quality,
                provenance=listed.provenance,
                decision=listed.decision,
            )
            for listed, mask in masks
            if listed.decision != "empty" and mask.any()
        ),
    )


def read_shown(mask: ListedMask, reading: MaskReading | None = None) -> Mask:
    """The mask that counts; those that a person drew are of black and white, whatever the others are."""
    return read_mask_and_void(mask.shown, reading if mask.corrected is None else None).mask


def _check_size(path: Path, mask: Mask, header: ImageHeader) -> None:
    if mask.shape != (header.height, header.width):
        raise ImageError(
            f"{path}: expected a mask of its image's size, {header.width} x {header.height}; it is {mask.shape[1]} x "
            f"{mask.shape[0]} (width x height)"
        )
