"""What the page asks for: the next mask, its files, and decisions taken in; everything behind one lock."""

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from camseg.base.arrays import Image, Mask
from camseg.base.errors import CamsegError, ImageError, InputError, failure_line
from camseg.base.files import check_can_write
from camseg.data.images import decode_png, encode_png, read_image
from camseg.data.stored import read_stored
from camseg.exchange.corrections import Before, Corrector
from camseg.review.items import MaskItem, list_items
from camseg.review.progress import decision_times
from camseg.review.queue import Queue, is_drawn
from camseg.review.settings import ReviewSettings
from camseg.review.solving import Solver, solve_strokes, superpixels
from camseg.runs.corrections import Correction, Decision, correction_to_line

TOOL: Final = "review"
"""What corrections of the page are said to come from."""
LONGEST: Final = 24 * 3600.0
"""Seconds; nobody takes longer for a mask."""
LISTED: Final = 5
"""So many masks that cannot be shown are named."""


class ConflictError(CamsegError):
    """A decision on a mask that is another one by now."""


@checked_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class PageVerdict:
    """What a page sends of a mask."""

    decision: Decision
    seconds: Annotated[float, Field(ge=0.0, le=LONGEST)]
    """Active ones, from when the mask was seen to the decision."""
    annotator: Annotated[str, Field(max_length=200)] = ""
    """Who decides."""
    actions: Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(max_length=50)] = Field(default_factory=dict)
    """How often each thing was done."""
    level: Annotated[int, Field(ge=0, le=255)] | None = None
    """Of the map, where that was chosen."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of a decision."""

    line: Correction
    etag: str
    """Of the mask from now on."""


class Desk:
    """An output folder on the reviewers' desk."""

    def __init__(self, folder: Path | str, settings: ReviewSettings, images: Path | str | None = None) -> None:
        """List the folder.

        Raises InputError where it holds no masks, OutputError for damaged files, or where it cannot be written to.
        """
        self.settings = settings
        listed = list_items(folder, images)
        self.items, self.remarks = listed.by_id, listed.remarks
        self.folder = listed.folder
        check_can_write(self.folder, option="folder, or change its rights")
        self.lock = threading.RLock()
        self._corrector = Corrector(folder, images)
        self._queue = Queue(listed, settings.order, seed=settings.seed)
        self._labels: dict[str, NDArray[np.uint16]] = {}
        self._unreadable: dict[str, str] = {}  # why masks cannot be shown, by their ids

    def overview(self) -> dict[str, Any]:
        """The state of the whole folder."""
        with self.lock:
            decisions = Counter(item.decision or "unseen" for item in self.items.values())
            return {
                "folder": self.folder.resolve().name,
                "order": self.settings.order,
                "total": len(self.items),
                "done": len(self._queue.done),
                "decisions": dict(decisions),
                "remarks": [*self.remarks, *self._unreadable_line()],
                "annotator": self.settings.annotator or "",
            }

    def summary(self) -> dict[str, Any]:
        """How many masks people have decided on, and the median of their active seconds, by decision."""
        with self.lock:
            return decision_times(self.items.values())

    def next(self, reviewer: str, skipped: frozenset[str] = frozenset()) -> dict[str, Any] | None:
        """What the page is told of the next mask for a reviewer; None where there is none.

        Masks that cannot be read, or whose image cannot, are among the remarks from then on, and do not come again.
        """
        while True:
            with self.lock:
                found = self._queue.next(reviewer, skipped)
                item = None if found is None else self.items[found.id]
            if item is None:
                return None
            try:
                return self.facts(item)
            except CamsegError as error:
                self._withdraw(item, error)

    def lease(self, item: MaskItem, reviewer: str) -> bool:
        """Whether the reviewer may work on a mask."""
        with self.lock:
            return self._queue.lease(item.id, reviewer)

    def facts(self, item: MaskItem) -> dict[str, Any]:
        """What the page is told of a mask."""
        with self.lock:
            item = self.items[item.id]
            before = self._before(item)
        record = item.record
        height, width = before.machine.shape
        cam = item.file("cam")
        return {
            "id": item.id,
            "name": record.input,
            "class": record.class_name or "",
            "width": width,
            "height": height,
            "quality": record.quality,
            "score": record.score,
            "reasons": list(item.reasons),
            "empty": record.empty,
            "decision": item.decision,
            "drawn": is_drawn(item),
            "etag": self._etag(item, before),
            "cam": cam is not None and cam.is_file(),
            "trimap": (found := item.file("trimap")) is not None and found.is_file(),
            "image": item.image is not None,
            "deep": item.image is not None and is_deep(item.image),
            "classes": [
                {"id": other.id, "class": other.record.class_name or ""}
                for other in self.items.values()
                if other.record.input == record.input
            ],
        }

    def picture(self, item: MaskItem, window: str = "percentile") -> Image:
        """The image, RGB; InputError where there is none."""
        if item.image is None:
            raise InputError("the image was not found; start camseg review with --images")
        try:
            return read_image(item.image, window)
        except ImageError as error:  # damaged behind its header, which is all that facts need
            self._withdraw(item, error)
            raise

    def mask(self, item: MaskItem, which: Literal["counted", "machine"] = "counted") -> Mask:
        """The mask that counts, or the machine's."""
        with self.lock:
            before = self._before(self.items[item.id])
        return before.machine if which == "machine" else before.counted

    def segments(self, item: MaskItem) -> NDArray[np.uint16]:
        """The image's superpixels; the last few are kept."""
        if item.id not in self._labels:
            found = superpixels(self.picture(item))
            with self.lock:
                while len(self._labels) >= 8:
                    self._labels.pop(next(iter(self._labels)))
                self._labels[item.id] = found
            return found
        return self._labels[item.id]

    def solve(self, item: MaskItem, painted: bytes, solver: Solver) -> Mask:
        """The mask with its outline decided anew; ``painted``: a PNG, the mask red, sure object green, sure background
        blue."""
        image = self.picture(item)
        layers = decode_png(painted, *image.shape[:2])
        return solve_strokes(image, layers[..., 0] > 127, layers[..., 1] > 127, layers[..., 2] > 127, solver)

    def take(
        self, item: MaskItem, verdict: PageVerdict, etag: str, reviewer: str, painted: bytes | None = None
    ) -> Taken:
        """Take a decision in; it is on the disk when this returns.

        etag: of the mask that was shown; painted: a PNG of the edited mask. Raises ConflictError where another was
        quicker, or the machine has made another mask since; InputError for a decision that does not fit.
        """
        mask = None
        with self.lock:
            item = self.items[item.id]
            before = self._before(item)
            if etag != self._etag(item, before):
                raise ConflictError("another reviewer was quicker, or the mask has been made anew; look at it again")
            if painted is not None:
                mask = decode_png(painted, *before.machine.shape)[..., 0] > 127
            decision: Decision | None = verdict.decision
            if decision in ("edited", "accepted") and mask is not None:
                decision = None  # what the mask itself says: it may be the machine's, or empty
            line = self._corrector.take(
                before,
                decision,
                mask,
                tool=TOOL,
                annotator=verdict.annotator.strip() or self.settings.annotator or reviewer,
                seconds=round(verdict.seconds, 2),
                extra=self._extra(item, verdict),
            )
            drawn = line.decision in ("edited", "empty")
            after = replace(
                item,
                decision=line.decision,
                line=line,
                corrected=self.folder / line.corrected if drawn and line.corrected else None,
            )
            self.items[item.id] = after
            self._queue.decide(item.id)
            return Taken(line=line, etag=self._etag(after, self._before(after)))

    def _withdraw(self, item: MaskItem, error: CamsegError) -> None:
        with self.lock:
            self._queue.withdraw(item.id)
            self._unreadable[item.id] = failure_line(Path(item.record.input), error)

    def _unreadable_line(self) -> list[str]:
        reasons = list(self._unreadable.values())
        if not reasons:
            return []
        more = f"; and {len(reasons) - LISTED} others" if len(reasons) > LISTED else ""
        return [f"{len(reasons)} masks cannot be shown: {'; '.join(reasons[:LISTED])}{more}"]

    def _extra(self, item: MaskItem, verdict: PageVerdict) -> dict[str, Any]:
        known: dict[str, Any] = {"order": self.settings.order, "drawn_at_random": is_drawn(item)}
        known |= {"quality": item.record.quality}
        known |= {"actions": dict(verdict.actions)} if verdict.actions else {}
        return known | ({"level": verdict.level} if verdict.level is not None else {})

    def _before(self, item: MaskItem) -> Before:
        image = self._corrector.find(item.record.input)
        named = {mask.class_name for mask in image.masks}
        class_name = item.record.class_name
        return self._corrector.before(image, class_name if class_name in named else None)

    def _etag(self, item: MaskItem, before: Before) -> str:
        """Stands for the machine's mask and the last word on it."""
        said = "" if item.line is None else correction_to_line(item.line)
        machine = self._corrector.mask_sha256(before) or ""
        return hashlib.sha256(f"{machine}\0{said}".encode(errors="surrogateescape")).hexdigest()[:32]


@lru_cache(maxsize=4096)
def is_deep(path: Path) -> bool:
    """Whether an image has more than 8 bits, so that a window of it is to be chosen."""
    try:
        return read_stored(path).values.dtype != np.uint8
    except CamsegError:
        return False


def encode_mask(mask: Mask) -> bytes:
    """A mask as a PNG."""
    return encode_png(mask.astype(np.uint8) * 255)


def encode_labels(labels: NDArray[np.uint16]) -> bytes:
    """Numbers of pixels as a PNG: the low byte red, the high byte green."""
    planes = [np.zeros_like(labels), labels >> 8, labels & 255]  # as OpenCV has them: blue, green, red
    return encode_png(np.dstack(planes).astype(np.uint8))


def encode_picture(image: Image) -> bytes:
    """An image as a JPEG of high quality: a PNG of a photo would take the page seconds."""
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return bytes(encoded.tobytes())
