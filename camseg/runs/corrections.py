"""What people said of masks and drew in their place: ``corrections.jsonl`` and ``corrected/`` in an output folder.

The one place that reads and writes them, and that says which mask counts: a person's before the machine's, the last
word before earlier ones, and no word on another mask than the one that lies there now.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from statistics import fmean, median
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from camseg.base.arrays import Mask
from camseg.base.errors import OutputError
from camseg.base.files import Found, append_lines, sha256, whole_lines
from camseg.data.images import find_images, write_mask
from camseg.runs.lineage import manifest_folder
from camseg.runs.manifest import MANIFEST, read_manifest

CORRECTIONS: Final = "corrections.jsonl"
"""The file of corrections in an output folder; it grows by whole lines, and the last line of a mask counts."""
CORRECTED: Final = "corrected"
"""The folder of corrected masks in an output folder."""
PUBLISHED_SECONDS: Final = 54.5
"""Seconds per mask that Laptev and Gerget state."""

Decision: TypeAlias = Literal["accepted", "edited", "rejected", "empty"]
"""What a person said of a machine's mask: right as it is; changed; wrong; there is no such object."""


@checked_dataclass(frozen=True, kw_only=True, config=ConfigDict(use_attribute_docstrings=True, validate_by_name=True))
class Correction:
    """What a person said of the mask of one class in one image, or changed in it."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    input: str
    """The image's path below the folder of images, with its suffix, as in the manifest."""
    class_name: Annotated[str | None, Field(alias="class")] = None
    """The class; null where neither the manifest nor a folder names one."""
    decision: Decision
    """accepted: right as it is; edited: changed; rejected: wrong, and nobody has drawn a better one; empty: there is no
    such object."""
    file: str | None = None
    """The machine's mask that it is about, as a path below the output folder; null where the machine had none."""
    corrected: str | None = None
    """The mask that takes its place, below the output folder: of edited ones, and all black of empty ones."""
    iou: float | None = None
    """Intersection over union of the machine's mask with the one that counts now: 1 of accepted ones and where both are
    empty, 0 where the machine had none; null of rejected ones, as nobody knows."""
    seconds: float | None = None
    """The time that it took; null where the tool does not say."""
    tool: str
    """Where it was done: review, cvat, label-studio, labelme, ..."""
    annotator: str | None = None
    """Who did it, as the tool names people; null where it does not."""
    mask_sha256: str | None = None
    """SHA-256 of the machine's file that was shown; a correction of another one than lies there does not count."""
    corrected_sha256: str | None = None
    """SHA-256 of the corrected mask as it was written."""
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
    corrections: list[Correction] = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            corrections.append(correction_from_line(line))
        except ValueError:
            raise OutputError(f"{path}: line {number} is damaged; remove that line") from None
    return corrections


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Which mask counts for one class in one image."""

    file: Path | None
    """The mask that counts: a person's, else the machine's; None where there is none, or where it is ``empty``."""
    decision: Decision | None = None
    """What a person said; None where nobody has looked, or not at this mask."""
    correction: Correction | None = None
    """The line that says it; None where nothing does, as of a mask that somebody put into ``corrected/``."""
    stale: bool = False
    """Whether ``correction`` is of another mask than the one that lies there now, so that it does not count."""

    @property
    def drawn(self) -> bool:
        """Whether a person's mask takes the place of the machine's."""
        return self.decision in ("edited", "empty")

    @property
    def vouched(self) -> bool:
        """Whether a person says that the mask that counts is right."""
        return self.drawn or self.decision == "accepted"


class Corrections:
    """What people said of the masks in a folder: for each class in an image, the mask that counts."""

    def __init__(self, folder: Path | str) -> None:
        """Read the lines of an output folder. Raises OutputError for damaged ones."""
        self.folder = Path(folder)
        self._lines: list[Correction] = []
        self._last: dict[str | tuple[str, str | None], int] = {}  # by the machine's file, and by image and class
        self._hashes: dict[Path, tuple[tuple[int, int], str]] = {}
        for correction in read_corrections(self.folder):
            self._take(correction)

    def _take(self, correction: Correction) -> None:
        place = len(self._lines)
        self._lines.append(correction)
        self._last[correction.input, correction.class_name] = place
        if correction.file is not None:
            self._last[correction.file] = place

    def decide(self, *, input: str, class_name: str | None, file: str | None, place: str) -> Decided:
        """Which mask counts of one class in an image.

        input, class_name: as in the manifest; file: the machine's mask below the folder, None where there is none;
        place: the name of a corrected one below ``corrected``, without suffix (``corrected_place``).
        """
        keys: tuple[Any, ...] = (file, (input, class_name), (input, None))
        known = [self._last[key] for key in keys if key in self._last]
        machine = None if file is None else self.folder / file
        if not known:
            drawn = self.folder / CORRECTED / f"{place}.png"
            # Masks that somebody put there without a word are a person's too.
            return Decided(file=drawn, decision="edited") if drawn.is_file() else Decided(file=machine)
        line = self._lines[max(known)]
        if machine is not None and line.mask_sha256 not in (None, self.hash(machine)):
            return Decided(file=machine, correction=line, stale=True)
        if line.decision in ("edited", "empty"):
            own = None if line.corrected is None else self.folder / line.corrected
            return Decided(file=own, decision=line.decision, correction=line)
        return Decided(file=machine, decision=line.decision, correction=line)

    def added(self) -> list[Correction]:
        """The last words on classes in images of which the machine made no mask."""
        return [
            self._lines[place]
            for key, place in self._last.items()
            if isinstance(key, tuple) and self._lines[place].file is None
        ]

    def latest(self) -> list[Correction]:
        """The last line of each image and class."""
        return [self._lines[place] for key, place in self._last.items() if isinstance(key, tuple)]

    def add(self, correction: Correction, mask: Mask | None = None) -> Correction:
        """Write a correction: first the mask that takes the machine's place, then the line that says so.

        A kill between the two leaves a mask that counts already; the same correction made again finds its line missing.
        """
        if mask is not None and correction.corrected is not None:
            write_mask(self.folder / correction.corrected, mask)
            correction = replace(correction, corrected_sha256=sha256(self.folder / correction.corrected))
        append_lines(self.folder / CORRECTIONS, correction_to_line(correction))
        self._take(correction)
        return correction

    def hash(self, path: Path) -> str | None:
        """SHA-256 of a file, None where there is none; remembered as long as the file is not touched."""
        try:
            state = path.stat()
        except OSError:
            return None
        stamp = state.st_mtime_ns, state.st_size
        if self._hashes.get(path, (None, ""))[0] != stamp:
            self._hashes[path] = stamp, sha256(path)
        return self._hashes[path][1]


def corrected_place(file: str) -> str:
    """Where the corrected twin of a machine's mask lies below ``corrected``, without suffix: ``[<class>/]<path>``."""
    return PurePosixPath(file.removeprefix("masks/")).with_suffix("").as_posix()


def find_machine_masks(root: Path | str) -> Found:
    """``find_images`` for a folder of masks, without the corrected ones that lie in it."""
    found = find_images(root)
    if not any((found.root / name).is_file() for name in (CORRECTIONS, MANIFEST)):
        return found
    files = tuple(path for path in found.files if path.relative_to(found.root).parts[0] != CORRECTED)
    return Found(root=found.root, files=files, failures=found.failures, passed_over=found.passed_over)


def decided_masks(root: Path | str) -> dict[Path, Decided]:
    """What people said of the masks in a folder, by the masks' absolute paths; {} where nobody said anything.

    Masks of classes that only a person saw stand at the paths that the machine's would have.
    """
    root = Path(root).absolute()
    place = manifest_folder(root) or root
    if not (place / CORRECTIONS).is_file() and not (place / CORRECTED).is_dir():
        return {}
    corrections = Corrections(place)
    records = read_manifest(place, damaged_too=True)
    known = [(one.input, one.class_name, one.files["mask"]) for one in records if "mask" in one.files]
    if not records:
        files = (path.relative_to(place).as_posix() for path in find_machine_masks(place).files)
        known = [(file, None, file) for file in files]
    found: dict[Path, Decided] = {}
    for image, class_name, file in known:
        decided = corrections.decide(input=image, class_name=class_name, file=file, place=corrected_place(file))
        if decided.decision is not None or decided.stale:
            found[place / file] = decided
    masks = place / "masks" if any(file.startswith("masks/") for _, _, file in known) else place
    for line in corrections.added():
        if line.corrected is not None:
            drawn = Decided(file=place / line.corrected, decision=line.decision, correction=line)
            found.setdefault(masks / PurePosixPath(line.corrected).relative_to(CORRECTED), drawn)
    return found


def stale_line(decided: Iterable[Decided], folder: Path | str) -> str | None:
    """That some corrections do not count, and why; None where all do."""
    stale = [one.correction.input for one in decided if one.stale and one.correction is not None]
    if not stale:
        return None
    return (
        f"{len(stale)} corrections in {Path(folder) / CORRECTIONS} are of other masks than those that lie there now, "
        f"such as that of {stale[0]}; they do not count"
    )


@dataclass(frozen=True, kw_only=True)
class CorrectionSummary:
    """How many masks people looked at, and what time they took."""

    masks: int
    """Masks of which a person said something."""
    decisions: Mapping[str, int]
    """How many were accepted, edited, rejected and empty."""
    timed: int
    """Of how many the time is known."""
    median_seconds: float | None
    """Of these; None where there is none, here and below."""
    mean_seconds: float | None
    """The same."""
    mean_iou: float | None
    """Of the machine's masks with those that count now, over the accepted, edited and empty ones."""
    published_seconds: float = PUBLISHED_SECONDS
    """For comparison: seconds per mask that Laptev and Gerget state."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)

    def line(self) -> str:
        """In words."""
        said = ", ".join(f"{count} {decision}" for decision, count in self.decisions.items())
        words = f"a person looked at {self.masks} of these masks ({said})"
        if self.mean_iou is not None:
            words += f", which agree with the machine's by a mean IoU of {self.mean_iou:.3f}"
        if self.median_seconds is None:
            return f"{words}; no tool said what time it took"
        return (
            f"{words}; {self.timed} of them took {self.median_seconds:.1f} s at the median, {self.mean_seconds:.1f} s "
            f"on average (Laptev and Gerget state {self.published_seconds} s per mask)"
        )


def summarise(decided: Iterable[Decided]) -> CorrectionSummary | None:
    """The summary over what counts; None where nobody said anything."""
    spoken = [one for one in decided if one.decision is not None]
    if not spoken:
        return None
    lines = [one.correction for one in spoken if one.correction is not None]
    seconds = [line.seconds for line in lines if line.seconds is not None]
    ious = [line.iou for line in lines if line.iou is not None]
    return CorrectionSummary(
        masks=len(spoken),
        decisions=dict(sorted(Counter(str(one.decision) for one in spoken).items())),
        timed=len(seconds),
        median_seconds=median(seconds) if seconds else None,
        mean_seconds=fmean(seconds) if seconds else None,
        mean_iou=fmean(ious) if ious else None,
    )
