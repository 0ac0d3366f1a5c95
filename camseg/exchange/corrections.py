"""What people say of masks, taken one word at a time: importers, review pages and Python users all come here."""

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from camseg.base.arrays import Mask, check_mask
from camseg.base.errors import CorrectionError, InputError, StaleMaskError
from camseg.data.images import read_header
from camseg.data.mask_settings import MaskReading
from camseg.exchange.listed import ListedImage, ListedMask, read_shown, with_decision
from camseg.exchange.loading import list_folder
from camseg.measure.metrics import iou, mask_counts
from camseg.runs.corrections import CORRECTED, Correction, Corrections, Decided, Decision, corrected_place


@dataclass(frozen=True, kw_only=True, eq=False)
class Before:
    """A class in an image before a person says something of it."""

    image: ListedImage
    """The image."""
    class_name: str
    """The class."""
    listed: ListedMask | None
    """The machine's mask, or a person's of a class of which the machine made none; None where there is neither."""
    place: str
    """Where a corrected mask goes below ``corrected``, without suffix."""
    machine: Mask
    """The machine's mask, bool (H, W); empty where it made none."""
    counted: Mask
    """The mask that counts so far: a person's, else the machine's."""

    @property
    def file(self) -> Path | None:
        """The machine's mask; None where it made none."""
        return None if self.listed is None else self.listed.file


class Corrector:
    """An output folder that takes in what people say of its masks; nobody else may write corrections meanwhile."""

    def __init__(
        self,
        folder: Path | str,
        images: Path | str | None = None,
        *,
        class_name: str | None = None,
        reading: MaskReading | None = None,
        dry_run: bool = False,
    ) -> None:
        """List the folder: what ``label``, ``segment``, ``refine`` or others wrote, or any folder of masks.

        images: the folder or CSV of the images, default: as ``run.json`` says; class_name: what masks show whose class
        nothing names; reading: how foreign masks are read; dry_run: write nothing. Raises InputError where there is
        no mask, OutputError for damaged lines.
        """
        self.listing = list_folder(folder, images, class_name=class_name, reading=reading)
        self.images = {image.name: image for image in self.listing.images}
        self._corrections = Corrections(self.listing.folder)
        self._stems = {_stem(name): name for name in self.images}
        self._dry_run = dry_run

    def find(self, image: str) -> ListedImage:
        """An image by its path below the folder of images, with or without suffix; CorrectionError for another."""
        name = image if image in self.images else self._stems.get(image)
        if name is None:
            raise CorrectionError(f"{image}: {self.listing.folder} holds no mask of such an image")
        return self.images[name]

    def size(self, image: ListedImage) -> tuple[int, int]:
        """Height and width of an image as it is seen; of one that is not there those of its mask."""
        if image.path is not None:
            header = read_header(image.path)
            return header.height, header.width
        height, width = self._read(image.masks[0]).shape
        return height, width

    def before(self, image: ListedImage, class_name: str | None, size: tuple[int, int] | None = None) -> Before:
        """What there is of a class in an image; None stands for the class of its only mask. ``size``, if it is known.

        Raises CorrectionError where the class is missing, or its name or place cannot be a folder's; ImageError for
        masks that cannot be read.
        """
        if class_name is None:
            if len(image.masks) != 1:
                known = ", ".join(mask.class_name for mask in image.masks) or "none"
                raise CorrectionError(f"{image.name}: expected the class; there are {known}; name one")
            class_name = image.masks[0].class_name
        listed = next((mask for mask in image.masks if mask.class_name == class_name), None)
        place = None if listed is None else self._place(image, listed)
        if listed is None:
            listed, place = self._free(image)
        if place is None:
            place = f"{_folder_name(image, class_name)}/{_stem(image.name)}"
            if place in self._stems:
                raise CorrectionError(
                    f"{image.name}: the mask of {class_name!r} would lie where that of {self._stems[place]} does; give "
                    "the class another name"
                )
        size = size or self.size(image)
        machine = counted = np.zeros(size, np.bool_)
        if listed is not None and listed.file is not None:
            machine = counted = self._read(replace(listed, corrected=None), size)
        if listed is not None and listed.decision == "empty":
            counted = np.zeros(size, np.bool_)
        elif listed is not None and listed.corrected is not None:
            counted = self._read(listed, size)
        return Before(image=image, class_name=class_name, listed=listed, place=place, machine=machine, counted=counted)

    def is_said(self, before: Before) -> bool:
        """Whether a line says all that is known of a mask, and a person's mask lies as it was written."""
        line = None if before.listed is None else before.listed.line
        if line is None:
            return False
        drawn = None if line.corrected is None else self._corrections.hash(self.listing.folder / line.corrected)
        return line.corrected_sha256 in (None, drawn)

    def mask_sha256(self, before: Before) -> str | None:
        """SHA-256 of the machine's file as it is now; None where there is none."""
        return None if before.file is None else self._corrections.hash(before.file)

    def correct(
        self,
        image: str,
        decision: Decision | None = None,
        mask: Mask | None = None,
        *,
        class_name: str | None = None,
        tool: str = "python",
        annotator: str | None = None,
        seconds: float | None = None,
        mask_sha256: str | None = None,
        time: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Correction:
        """Take in what a person says of the mask of one class in one image, and write it at once.

        decision: default what ``mask`` says: ``accepted`` where it is the machine's, ``empty`` where nothing is in it,
        else ``edited``; ``accepted`` without a mask accepts the one that counts so far. mask: bool (H, W), of the
        image's size; class_name: default that of the image's only mask; seconds: what it took; mask_sha256: of the
        machine's file that was shown; time: ISO 8601, default now.

        Returns the line that was written. Raises CorrectionError for an image that is not there, a mask of another
        size or a class that must be named; StaleMaskError where the machine's mask is not the one that was shown;
        InputError for a decision that the mask does not fit.
        """
        return self.take(
            self.before(self.find(image), class_name),
            decision,
            mask,
            tool=tool,
            annotator=annotator,
            seconds=seconds,
            mask_sha256=mask_sha256,
            time=time,
            extra=extra,
        )

    def take(
        self,
        before: Before,
        decision: Decision | None = None,
        mask: Mask | None = None,
        *,
        tool: str,
        annotator: str | None = None,
        seconds: float | None = None,
        mask_sha256: str | None = None,
        time: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Correction:
        """``correct`` for a mask that has been looked at."""
        image, listed = before.image, before.listed
        if mask is not None and check_mask(mask).shape != before.machine.shape:
            (height, width), (own_height, own_width) = before.machine.shape, mask.shape
            raise CorrectionError(
                f"{image.name}: expected a mask of the image's size, {width} x {height}; it is {own_width} x "
                f"{own_height} (width x height)"
            )
        now = self.mask_sha256(before)
        if mask_sha256 is not None and mask_sha256 != now:
            raise StaleMaskError(
                f"{image.name}: the mask of {before.class_name!r} is another one than was corrected; export it again"
            )
        decision, after = _settled(before, decision, mask)
        drawn = decision in ("edited", "empty")
        same = listed is not None and not listed.told and listed.class_name == before.class_name
        correction = Correction(
            input=image.name,
            class_name=None if same else before.class_name,
            decision=decision,
            file=None if before.file is None else before.file.relative_to(self.listing.folder).as_posix(),
            corrected=f"{CORRECTED}/{before.place}.png" if drawn else None,
            iou=None if decision == "rejected" else round(float(iou(mask_counts(before.machine, after))), 6),
            seconds=seconds,
            tool=tool,
            annotator=annotator,
            mask_sha256=now,
            time=time or datetime.now(timezone.utc).isoformat(timespec="seconds"),
            extra=extra or {},
        )
        if not self._dry_run:
            correction = self._corrections.add(correction, after if drawn else None)
            self._note(before, correction)
        return correction

    def _note(self, before: Before, correction: Correction) -> None:
        """Know what was just written."""
        file = before.file if correction.corrected is None else self.listing.folder / correction.corrected
        old = before.listed or ListedMask(class_name=before.class_name, file=None)
        plain = replace(old, corrected=None)
        new = with_decision(plain, Decided(file=file, decision=correction.decision, correction=correction))
        image = self.images[before.image.name]
        others = [mask for mask in image.masks if mask.class_name not in (old.class_name, new.class_name)]
        there = new.file is not None or new.corrected is not None
        masks = sorted([*others, *([new] if there else [])], key=lambda mask: mask.class_name)
        self.images[image.name] = replace(image, masks=tuple(masks))

    def _place(self, image: ListedImage, listed: ListedMask) -> str:
        if listed.file is not None:
            return corrected_place(listed.file.relative_to(self.listing.folder).as_posix())
        assert listed.corrected is not None
        return listed.corrected.relative_to(self.listing.folder / CORRECTED).with_suffix("").as_posix()

    def _free(self, image: ListedImage) -> tuple[ListedMask | None, str | None]:
        """The mask that one of another class may take the place of, and that place: in folders that hold one mask per
        image, whatever it shows, the empty one."""
        for listed in image.masks:
            if self._place(image, listed) == _stem(image.name):
                empty = listed.decision == "empty" or not self._read(listed).any()
                return (listed, _stem(image.name)) if empty else (None, None)
        return None, None

    def _read(self, listed: ListedMask, size: tuple[int, int] | None = None) -> Mask:
        mask = read_shown(listed, self.listing.reading)
        if size is not None and mask.shape != size:
            raise CorrectionError(
                f"{listed.shown}: expected a mask of its image's size, {size[1]} x {size[0]}; it is {mask.shape[1]} x "
                f"{mask.shape[0]} (width x height)"
            )
        return mask


def correct(
    folder: Path | str,
    image: str,
    decision: Decision | None = None,
    mask: Mask | None = None,
    *,
    class_name: str | None = None,
    tool: str = "python",
    annotator: str | None = None,
    seconds: float | None = None,
    images: Path | str | None = None,
) -> Correction:
    """Say of the mask of one class in one image of an output folder that it is ``accepted``, ``rejected``, ``empty``,
    or ``edited`` with another ``mask``, bool (H, W).

    images: the folder or CSV of the images, default: as ``run.json`` says; the rest is as in ``Corrector.correct``,
    which takes many corrections without listing the folder for each.
    """
    return Corrector(folder, images).correct(
        image, decision, mask, class_name=class_name, tool=tool, annotator=annotator, seconds=seconds
    )


def _settled(before: Before, decision: Decision | None, mask: Mask | None) -> tuple[Decision, Mask]:
    """The decision, and the mask that counts from then on."""
    name = before.image.name
    if decision is None and mask is None:
        raise InputError(f"{name}: expected a decision or a mask; got neither")
    if decision == "accepted" and mask is None:
        listed = before.listed
        if listed is not None and listed.decision in ("edited", "empty"):  # what a person drew is accepted
            return listed.decision, before.counted
        return "accepted", before.machine
    if decision == "rejected" and before.listed is None:
        raise InputError(f"{name}: there is no mask of {before.class_name!r} to reject")
    if mask is None:
        if decision == "edited":
            raise InputError(f"{name}: expected the edited mask; got none")
        return decision or "empty", np.zeros_like(before.machine)
    told: Decision = "edited" if mask.any() else "empty"
    if np.array_equal(mask, before.machine):
        told = "accepted"
    if decision not in (None, told) and not (decision == "empty" and not mask.any()):
        raise InputError(
            f"{name}: expected a mask that is {decision}; it is {told}; leave the mask or the decision out"
        )
    return decision or told, mask


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _folder_name(image: ListedImage, class_name: str) -> str:
    """A class that becomes the name of a folder."""
    unsafe = (
        class_name.startswith(".") or any(sign in class_name for sign in "/\\\0") or class_name != class_name.strip()
    )
    if not class_name or unsafe:
        raise CorrectionError(f"{image.name}: the class {class_name!r} cannot be the name of a folder; rename it")
    return class_name
