"""Files of other tools -> corrections of an output folder: what ``camseg import`` does."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np

from camseg.base.arrays import Mask
from camseg.base.errors import CamsegError, ExchangeError, InputError, StaleMaskError, failure_line, first_line
from camseg.base.files import check_can_write
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.registry import choose
from camseg.data.images import image_suffixes
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.corrections import Before, Corrector
from camseg.exchange.exported import Exported, read_exported
from camseg.exchange.incoming import Frame, Incoming
from camseg.exchange.listed import ListedImage
from camseg.exchange.polygons import At, mask_to_polygons, polygons_to_mask
from camseg.exchange.registry import IMPORTERS
from camseg.exchange.settings import ExportInputs, ImportSettings
from camseg.runs.corrections import CorrectionSummary, Decided, summarise

Exports: TypeAlias = dict[str, list[Exported]]
"""What was exported of one image, by class."""


@dataclass(kw_only=True)
class ImportReport:
    """What was brought in, and what was not."""

    images: int = 0
    """Images of the file that are here and could be read."""
    decisions: Counter[str] = field(default_factory=Counter)
    """Corrections that were written, by the decision."""
    kept: int = 0
    """Corrections that were there already."""
    unseen: int = 0
    """Masks that came back as they were, of which nothing says that a person looked."""
    stale: list[str] = field(default_factory=list)
    """Corrections of other masks than those that lie here now, or that somebody has changed since: refused."""
    failed: list[str] = field(default_factory=list)
    """Images that are unknown, of another size, twice there or damaged: one line for each."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Shapes that are no masks, by their kind."""
    summary: CorrectionSummary | None = None
    """Of what was written: how far it agrees with the machine's masks, and what time it took."""
    seconds: float = 0.0
    """From start to end."""


def import_corrections(
    folder: Path | str,
    file: Path | str,
    name: str,
    settings: ImportSettings | None = None,
    inputs: ExportInputs | None = None,
    *,
    dry_run: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> ImportReport:
    """Bring corrections of the masks of a folder in from a file of the format ``name``, one of ``camseg import``'s.

    folder: what ``label``, ``segment``, ``refine`` or others wrote, or any folder of masks whose images ``inputs``
    name; file: what the tool wrote. Each correction is a line of ``corrections.jsonl`` and, where the mask is another
    one, a file below ``corrected``; the machine's masks stay. What is there already is passed over, so that a killed
    import goes on. dry_run: write nothing and count what would be.

    Raises InputError for an unknown format, and a file that is not there or tells of no image; ExchangeError for one
    that is damaged as a whole.
    """
    started = time.perf_counter()
    importer = choose("format", name, IMPORTERS)
    settings, inputs, file = settings or ImportSettings(), inputs or ExportInputs(), Path(file)
    corrector = Corrector(
        folder, inputs.image_folder, class_name=inputs.class_name, reading=settings.reading, dry_run=dry_run
    )
    for remark in corrector.listing.remarks:
        say(f"note: {remark}")
    check_can_write(corrector.listing.folder)
    with _worded(str(file)):
        incoming: list[Incoming] = importer.load()(file, settings)
    if not incoming:
        raise InputError(f"{file} tells of no image that a person looked at")
    report = ImportReport()
    matched = _matched(incoming, corrector, report)
    exported = read_exported(corrector.listing.folder, name)
    work = _Import(corrector=corrector, name=name, settings=settings, report=report)
    for one, image in progress(matched, len(matched), f"import {name}"):
        try:
            height, width = corrector.size(image)
            with _worded(one.name):
                arrived = one.read(Frame(name=image.name, width=width, height=height))
            work.image(image, arrived, exported.get(image.name, {}))
        except CamsegError as error:
            report.failed.append(failure_line(Path(one.name), error))
    report.summary = summarise(work.written)
    report.seconds = time.perf_counter() - started
    for line in (*report.failed, *report.stale):
        say(f"failed: {line}")
    return report


@contextmanager
def _worded(name: str) -> Iterator[None]:
    """Within it, what a file of another shape than foreseen leads to is an ExchangeError."""
    try:
        yield
    except CamsegError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ExchangeError(f"{name}: damaged, or of another version ({first_line(error)})") from None


def _matched(
    incoming: Sequence[Incoming], corrector: Corrector, report: ImportReport
) -> list[tuple[Incoming, ListedImage]]:
    """What is told of images that are here, each once; the rest is reported."""
    tails: defaultdict[str, list[str]] = defaultdict(list)
    for image in corrector.images:
        tails[_plain(image).name].append(image)
    found: defaultdict[tuple[str, str], list[Incoming]] = defaultdict(list)
    for one in incoming:
        meant, reason = _named(one, corrector, tails)
        if meant is None:
            report.failed.append(f"{one.name}: {reason}")
        else:
            found[meant, one.part].append(one)
    matched = []
    for (image, _), several in found.items():
        if len(several) > 1:
            report.failed.append(f"{image}: the file tells of it {len(several)} times; leave one of them")
        else:
            matched.append((several[0], corrector.images[image]))
    return matched


def _named(one: Incoming, corrector: Corrector, tails: defaultdict[str, list[str]]) -> tuple[str | None, str]:
    """The image that is meant, or why none is."""
    names = (one.name, *one.others)
    for name in names:
        try:
            return corrector.find(name).name, ""
        except CamsegError:
            continue
    # Tools leave folders out of names, or put some in front.
    for name in () if one.part else names:
        parts = _plain(name).parts
        likely = []
        for image in tails[parts[-1]] if parts else ():
            own = _plain(image).parts
            common = min(len(own), len(parts))
            if own[-common:] == parts[-common:]:
                likely.append(image)
        if len(likely) == 1:
            return likely[0], ""
        if likely:
            return None, f"it may be {' or '.join(likely[:3])}; give images names with their folders"
    return None, "there is no such image here"


def _plain(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.with_suffix("") if path.suffix.lower() in image_suffixes() else path


@dataclass(kw_only=True)
class _Import:
    corrector: Corrector
    name: str
    settings: ImportSettings
    report: ImportReport
    written: list[Decided] = field(default_factory=list)

    def image(self, image: ListedImage, arrived: AnnotatedImage, exported: Exports) -> None:
        """Take in what is told of one image."""
        self.report.images += 1
        self.report.left_out.update(kind for kind, _ in arrived.skipped)
        drawn = {one.class_name: one for one in arrived.annotations}
        missing = self._missing(image, arrived, exported) - drawn.keys()
        # What went away first: where there is one mask per image, it makes room.
        classes = [*sorted(missing), *drawn]
        for name in classes:
            known = name in arrived.hashes or name in exported
            told = arrived.hashes.get(name, exported[name][-1].mask_sha256 if name in exported else None)
            one = drawn.get(name)
            size = arrived.height, arrived.width
            before = self.corrector.before(self.corrector.images[image.name], name or None, size)
            mask = np.zeros_like(before.machine) if one is None else one.mask
            if one is None and before.listed is None:
                continue
            if known and told != self.corrector.mask_sha256(before):
                self.report.stale.append(
                    f"{image.name}: the mask of {name!r} is another one than was exported; export it again"
                )
                continue
            looked = self.settings.unchanged == "accepted" or (
                self.settings.unchanged is None and bool(arrived.seen or (one is not None and one.decision))
            )
            # Any export of this mask may be the one that comes back.
            same = [line for line in exported.get(name, ()) if line.mask_sha256 == told]
            if self._is_unchanged(before, mask, {line.tolerance for line in same}):
                mask = before.counted
                if not self._says_more(before, looked):
                    continue
            if name in exported and self._changed_since(before, exported[name][-1]):
                continue
            self._take(before, mask, arrived, told, len(classes))

    def _missing(self, image: ListedImage, arrived: AnnotatedImage, exported: Exports) -> set[str]:
        """The classes that would have a mask in the file if they were in the image."""
        listed = {mask.class_name for mask in image.masks}
        if arrived.classes is None and not arrived.hashes and not exported:
            # Then only an image without any shape says something of what it lacks.
            return listed if arrived.seen and not arrived.annotations and not arrived.skipped else set()
        expected = set(arrived.hashes) or set(exported) or (set(arrived.classes or ()) & (listed | {""}))
        expected |= {mask.class_name for mask in image.masks if mask.line is not None and mask.line.tool == self.name}
        if arrived.classes is not None and not arrived.hashes:
            expected &= set(arrived.classes)
        return expected - {label for _, label in arrived.skipped}

    def _is_unchanged(self, before: Before, mask: Mask, tolerances: set[float]) -> bool:
        """Whether a mask came back as it was, or as the polygons of one of these tolerances were that stood for it."""
        if np.array_equal(mask, before.counted):
            return True
        if not before.counted.any():
            return False
        at: At = "centres" if self.name == "labelme" else "corners"

        def drawn(tolerance: float) -> Mask:
            polygons = mask_to_polygons(before.counted, at, tolerance)
            return polygons_to_mask(polygons, mask.shape[0], mask.shape[1], at)

        return any(np.array_equal(mask, drawn(tolerance)) for tolerance in sorted(tolerances - {0.0}))

    def _says_more(self, before: Before, looked: bool) -> bool:
        """Whether a mask that came back as it was says something that is not written yet."""
        decision = None if before.listed is None else before.listed.decision
        if decision is not None and not (decision == "rejected" and looked):
            if self.corrector.is_said(before):
                self.report.kept += 1
                return False
            return True  # a killed import had written the mask and not the line
        self.report.unseen += not looked
        return looked

    def _changed_since(self, before: Before, exported: Exported) -> bool:
        line = None if before.listed is None else before.listed.line
        if line is None or line.tool == self.name or line.time <= exported.time:
            return False
        self.report.stale.append(
            f"{before.image.name}: the mask of {before.class_name!r} was {line.decision} in {line.tool} since it was "
            "exported; export it again"
        )
        return True

    def _take(self, before: Before, mask: Mask, arrived: AnnotatedImage, told: str | None, share: int) -> None:
        try:
            line = self.corrector.take(
                before,
                mask=mask,
                tool=self.name,
                annotator=arrived.annotator or self.settings.annotator,
                # Tools tell the time of an image, which its masks share.
                seconds=None if arrived.seconds is None else round(arrived.seconds / share, 3),
                mask_sha256=told,
                time=arrived.time,
            )
        except StaleMaskError as error:
            self.report.stale.append(str(error))
            return
        self.report.decisions[line.decision] += 1
        self.written.append(Decided(file=None, decision=line.decision, correction=line))
