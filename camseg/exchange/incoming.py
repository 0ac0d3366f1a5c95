"""What importers share: images whose masks are decoded when they are asked for, shapes, zips that are not trusted.

No name in a file of another tool is ever opened: names are looked up among the images that are known.
"""

import base64
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.base.errors import ExchangeError, InputError
from camseg.data.images import decode_png
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.polygons import At, polygons_to_mask
from camseg.runs.corrections import Decision

LARGEST: Final = 4 << 30
"""Bytes that a file, or a member of a zip, may unfold to."""
_MEMBERS: Final = 1_000_000
_RATIO, _SMALL = 200, 64 << 20
"""A member of a zip that unfolds to more than so many times its size is refused, unless it stays small."""
_PREFIX: Final = re.compile("[0-9a-f]{8}(?:-|__)(?=.)")
_FAR: Final = 1e7
"""No point of a shape lies so many pixels away."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An image as it lies here: its name, and its size as it is seen."""

    name: str
    width: int
    height: int

    def check(self, width: Any, height: Any) -> None:
        """Raise ExchangeError where a file says another size; None says none."""
        known = [one for one in (width, height) if one is not None]
        if known and (width, height) != (self.width, self.height):
            raise ExchangeError(
                f"expected an image of {self.width} x {self.height}, as it lies here; it says {width} x {height}"
            )


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """An image that a file tells of; ``read`` decodes its masks for the image that it is here.

    ``read`` raises ExchangeError for masks that are damaged, or of another size.
    """

    name: str
    """As the file calls it, with ``/`` between."""
    read: Callable[[Frame], AnnotatedImage]
    others: tuple[str, ...] = ()
    """Other names that may be meant, if that is none."""
    part: str = ""
    """Which part of an image it tells of, where a file for each class does; the same part twice is one too many."""


@dataclass(kw_only=True)
class Shapes:
    """The shapes of an image, which become one mask for each class."""

    frame: Frame
    exclusive: bool = False
    """Whether a shape takes its pixels away from those below."""
    _shapes: list[tuple[float, str, Mask, Decision | None]] = field(default_factory=list)
    _skipped: list[tuple[str, str]] = field(default_factory=list)

    def add(self, label: str, mask: Mask, order: float = 0, decision: Decision | None = None) -> None:
        """Add a mask; of a higher order it lies further up, of the same order what comes later does."""
        self._shapes.append((order, label, mask, decision))

    def add_polygons(
        self, label: str, polygons: Iterable[Any], at: At, order: float = 0, decision: Decision | None = None
    ) -> None:
        """Add a mask of polygons, each a list of points; raises ExchangeError for what are none."""
        checked = [check_points(points, self.frame) for points in polygons]
        self.add(label, polygons_to_mask(checked, self.frame.height, self.frame.width, at), order, decision)

    def masks(self) -> list[Mask]:
        """The mask of each shape, in the order in which they were added."""
        return [mask for _, _, mask, _ in self._shapes]

    def skip(self, kind: str, label: str | None = None) -> None:
        """Take note of a shape that is no mask, so that its class is not taken for missing."""
        self._skipped.append((kind, label or ""))

    def image(self, classes: Iterable[str] | None, **facts: Any) -> AnnotatedImage:
        """The image with a mask for each class, in the order of their topmost shapes.

        ``classes``, ``facts``: as the fields of ``AnnotatedImage``.
        """
        masks: dict[str, Mask] = {}
        decisions: dict[str, set[Decision | None]] = {}
        for _, label, mask, decision in sorted(self._shapes, key=lambda shape: shape[0]):
            for other in masks if self.exclusive else ():
                if other != label:
                    masks[other] = masks[other] & ~mask
            before = masks.pop(label, None)
            masks[label] = mask if before is None else before | mask
            decisions.setdefault(label, set()).add(decision)
        frame = self.frame
        annotations = tuple(
            Annotation(
                image=frame.name,
                width=frame.width,
                height=frame.height,
                class_name=label,
                mask=mask,
                decision=next(iter(decisions[label] - {None}), None),
            )
            for label, mask in masks.items()
            if mask.any()
        )
        return AnnotatedImage(
            name=frame.name,
            width=frame.width,
            height=frame.height,
            annotations=annotations,
            classes=None if classes is None else tuple(classes),
            skipped=tuple(self._skipped),
            **facts,
        )


def check_points(points: Any, frame: Frame) -> NDArray[np.float64]:
    """Points of a polygon, float (n, 2) with n >= 3; ExchangeError for others, and such as no image can need."""
    try:
        checked = np.array(points, np.float64)
    except (TypeError, ValueError):
        checked = np.zeros(0)
    if checked.ndim != 2 or checked.shape[1] != 2 or len(checked) < 3 or not (np.abs(checked) < _FAR).all():
        raise ExchangeError("expected polygons of three points or more, each two numbers; one is damaged")
    # Outlines of pixels are at most four times as long as there are pixels; seams add to that.
    steps = np.abs(np.diff(checked[:, 1], append=checked[:1, 1]))
    if np.minimum(steps, frame.height).sum() > 64 * frame.width * frame.height + 1e6:
        raise ExchangeError("expected polygons that outline objects; one crosses the image too often")
    return checked


def ellipse_points(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0) -> NDArray[np.float64]:
    """An ellipse as a polygon of 720 points; ``turn``: clockwise, in degrees."""
    angles = np.linspace(0.0, 2.0 * np.pi, 720, endpoint=False)
    return turned(np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1), (x, y), turn)


def turned(points: NDArray[np.float64], about: tuple[float, float], degrees: float) -> NDArray[np.float64]:
    """Points (n, 2) turned about one of them, clockwise as seen."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    centre = np.array(about)
    return np.asarray((points - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre)


def number(value: Any) -> float:
    """A finite number, also as text; ExchangeError for another value."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = np.nan
    if not abs(found) < _FAR:
        raise ExchangeError(f"expected a number; got {str(value)[:40]!r}")
    return found


def text(value: Any, what: str) -> str:
    """A text that says something; ExchangeError for another value."""
    if not isinstance(value, str) or not value.strip():
        raise ExchangeError(f"expected {what}; got {str(value)[:40]!r}")
    return value


def plain_name(name: str) -> str:
    """A name as files call images: ``/`` between, none at the start."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return PurePosixPath(*parts).as_posix() if parts else ""


def without_prefix(name: str) -> tuple[str, ...]:
    """A file's name without the eight letters that Label Studio puts in front of it; () where there are none."""
    last = name.rpartition("/")[2]
    return (last[found.end() :],) if (found := _PREFIX.match(last)) else ()


def read_json_bytes(data: bytes, name: str) -> Any:
    """The value of a JSON text; ExchangeError where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ExchangeError(f"{name}: not valid JSON ({error})") from None


def objects(value: Any, what: str, name: str) -> list[Mapping[str, Any]]:
    """A list of JSON objects; ExchangeError for another value."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ExchangeError(f"{name}: expected {what}, a list of objects; found {type(value).__name__}")
    return value


def read_base64(value: Any, height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of a PNG in base64, uint8 (height, width, 4), RGBA; ExchangeError for another size or other bytes."""
    try:
        data = base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise ExchangeError("expected a PNG in base64; it is damaged") from None
    return decode_png(data, height, width)


def read_data_url(value: Any, height: int, width: int) -> NDArray[np.uint8]:
    """The same of an address ``data:image/png;base64,...``."""
    start, _, rest = value.partition(",") if isinstance(value, str) else ("", "", "")
    if start != "data:image/png;base64":
        raise ExchangeError(f"expected a PNG as data:image/png;base64,...; got {str(value)[:40]!r}")
    return read_base64(rest, height, width)


@contextmanager
def opened(file: Path, suffix: str, wanted: Callable[[str], bool]) -> Iterator[list[tuple[str, BinaryIO]]]:
    """A file itself, or the members of a zip that are wanted by their names; the suffix tells which it is.

    Nothing is unpacked. Raises InputError for a file that is not there or of another kind, ExchangeError for a zip that
    is damaged, whose members' names lead out of it or which would unfold to too much, or without such a member.
    """
    try:
        with file.open("rb") as source:
            if not zipfile.is_zipfile(source):
                if file.suffix.lower() != suffix:
                    raise InputError(f"{file}: expected a {suffix} file, or a zip with one")
                source.seek(0, io.SEEK_END)
                _check_size(str(file), source.tell())
                source.seek(0)
                yield [(file.name, source)]
                return
            source.seek(0)
            with zipfile.ZipFile(source) as archive:
                members = _members(file, archive, wanted)
                if not members:
                    raise ExchangeError(f"{file}: the zip lacks what is needed; choose another --format")
                yield [(member.filename, archive.open(member)) for member in members]  # type: ignore[misc]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ExchangeError(f"{file}: the zip cannot be read ({error})") from None


def _members(file: Path, archive: zipfile.ZipFile, wanted: Callable[[str], bool]) -> list[zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > _MEMBERS:
        raise ExchangeError(f"{file}: expected at most {_MEMBERS} files in a zip; there are {len(infos)}")
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename.split("/")[0]:
            raise ExchangeError(f"{file}: the zip has a file that leads out of it, {info.filename!r}")
    found = [info for info in infos if not info.is_dir() and wanted(info.filename)]
    for info in found:
        _check_size(f"{file}: {info.filename}", info.file_size)
        if info.file_size > max(_SMALL, _RATIO * info.compress_size):
            raise ExchangeError(
                f"{file}: {info.filename} would unfold from {info.compress_size} to {info.file_size} bytes, which no "
                "annotations do"
            )
    return found


def _check_size(name: str, size: int) -> None:
    if size > LARGEST:
        raise ExchangeError(f"{name}: expected at most {LARGEST} bytes; it has {size}")
