"""Stages, and the items that they hand on: what every command that works through a folder is a list of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camseg.base.addresses import origin
from camseg.base.arrays import Alpha, Cam, Colors, Image, Mask, Trimap
from camseg.base.errors import ImageError, failure_line
from camseg.base.progress import Say
from camseg.base.settings import to_json
from camseg.data.datasets import Sample
from camseg.data.images import read_image
from camseg.runs.record import Record

KEPT_PIXELS: Final = 4_000_000
"""Larger images are not kept while they wait for the network, but read again for the later stages."""

Place: TypeAlias = Literal["thread", "batch", "process"]
"""Where a stage runs: item by item in a thread, item by item in a process of its own beside it, or with all items of a
batch at once, those that failed included, in the calling thread."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One image, and from the network on one image and class, with what the stages have made of it so far."""

    sample: Sample
    """The input."""
    record: Record
    """Its line in the manifest."""
    name: str
    """The outputs' name, without kind and suffix: ``<class>/<path>`` where there is a folder per class."""
    source: Path | None
    """The image file; None where no image of that name was found."""
    window: str = "full"
    """How its 16-bit and float pixels become 8-bit."""
    pixels: Image | None = None
    """The image, where it is kept in memory."""
    size: tuple[int, int] = (0, 0)
    """(H, W) of the image."""
    squares: tuple[Image, ...] = ()
    """The networks' inputs."""
    grids: Mapping[str, tuple[NDArray[np.float32], ...]] = field(default_factory=dict)
    """Per method the fused maps of each network."""
    features: NDArray[np.float32] | None = None
    """(C, h, w) over the image: what propagation may walk on."""
    cams: Mapping[str, Cam] = field(default_factory=dict)
    """Per method the map at the image's size."""
    members: tuple[Cam, ...] = ()
    """Of an ensemble, until they are fused: each member's map of the only method."""
    views: tuple[NDArray[np.float32], ...] = ()
    """What each view gave before the views were fused, by network: maps (..., h, w); small ones once they are placed
    over the image."""
    before: Mask | None = None
    """The mask before refinement, where there is one."""
    mask: Mask | None = None
    """The mask, in the end the final one."""
    void: Mask | None = None
    """What the file of the mask gives no class."""
    trimap: Trimap | None = None
    alpha: Alpha | None = None
    foreground: Colors | None = None
    kept: frozenset[str] = frozenset()
    """Kinds of its files that are there already, and stay as they are."""
    done: bool = False
    """Whether no further stage has anything to do with it."""

    @property
    def image(self) -> Image:
        """The image, read again where it is not kept; ImageError where there is none."""
        if self.pixels is not None:
            return self.pixels
        if self.source is None:
            raise ImageError(f"{self.sample.path}: no image {self.sample.name} among the images")
        return read_image(self.source, self.window)

    @property
    def cam(self) -> Cam | None:
        """The only method's map, if there is one."""
        return next(iter(self.cams.values()), None)


def new_item(sample: Sample, window: str = "full") -> Item:
    """The item of an image of which nothing is known yet but its labels."""
    record = Record(input=sample.input, name=sample.name, labels=sample.labels)
    return Item(sample=sample, record=record, name=sample.name, source=sample.path, window=window)


def waiting_pixels(image: Image) -> Image | None:
    """An image that an item keeps while it waits for the network; None where it has more than ``KEPT_PIXELS``."""
    return image if image.shape[0] * image.shape[1] <= KEPT_PIXELS else None


def failed_item(item: Item, error: Exception) -> Item:
    """What is left of an item where a stage failed: its line in the manifest."""
    sample = item.sample
    reason = failure_line(sample.path, error)
    if (address := origin(sample.path)) is not None:  # where the file of this machine is of no use to anybody
        reason = reason.replace(str(sample.path), address).replace(f"{address}: {address}", address)
    record = Record(input=sample.input, name=sample.name, status="failed", error=reason)
    return Item(sample=sample, record=record, name=item.name, source=item.source, done=True)


class Stage:
    """One step from items to items. Stages are frozen dataclasses that pickle: they may run in another process.

    A stage states its ``settings`` once. ``identity`` says, from them, what decides its bytes: it goes into
    ``run.json``, and a folder is continued only by stages of the same identity.
    """

    name: ClassVar[str]
    """What the stage is called in ``run.json``."""

    @property
    def place(self) -> Place:
        """Where it runs."""
        return "thread"

    def setup(self, device: str) -> None:
        """Load and compile what the stage needs, once in each process, before the first item."""

    def hear(self, say: Say) -> None:
        """From now on tell ``say`` what the person who waits should know; a stage that was pickled tells nobody."""

    def files(self, item: Item) -> tuple[Path, ...]:
        """The files that the stage reads for an item: where they have changed, a finished item is done again."""
        return ()

    def deciding(self) -> tuple[Path, ...]:
        """Files that decide which files are read: where they have changed, those are looked into."""
        return ()

    def kinds_written(self) -> frozenset[str]:
        """The kinds of files that every item gets: where one lacks some, it is done again for them."""
        return frozenset()

    def identity(self) -> dict[str, Any]:
        """Everything that decides the stage's bytes, as JSON values."""
        settings = getattr(self, "settings", None)
        return {} if settings is None else to_json(settings)

    def __call__(self, batch: Sequence[Item]) -> list[Item]:
        """The items after this stage; one may become several, one per class."""
        return [self.each(item) for item in batch]

    def each(self, item: Item) -> Item:
        """One item after this stage."""
        raise NotImplementedError


def files_read(stages: Sequence[Stage], item: Item) -> list[Path]:
    """Each file that stages read for an item, once."""
    return list(dict.fromkeys(path for stage in stages for path in stage.files(item)))


def run_stages(stages: Sequence[Stage], items: Sequence[Item]) -> list[Item]:
    """Items through stages, one after the other, in this thread; those that are done are left alone."""
    for stage in stages:
        items = [after for item in items for after in ([item] if item.done else stage([item]))]
    return list(items)
