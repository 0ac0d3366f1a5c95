"""The first and the last stages of a chain: files -> items, items -> files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from camseg.base.arrays import Image, quantise
from camseg.base.settings import to_json
from camseg.data.images import (
    Window,
    read_cam,
    read_mask_and_void,
    read_trimap,
    write_cam,
    write_image,
    write_mask,
    write_raw,
)
from camseg.data.mask_settings import MaskReading
from camseg.runs.corrections import CORRECTED, CORRECTIONS
from camseg.runs.lineage import manifest_folder, provenance
from camseg.runs.stage import Item, Stage

READERS: Final[Mapping[str, Callable[[Path, MaskReading], Any]]] = {
    "cam": lambda path, _reading: read_cam(path),
    "mask": read_mask_and_void,
    "trimap": lambda path, _reading: read_trimap(path),
}
"""How files of each kind are read."""


@dataclass(kw_only=True, eq=False)
class ReadStage(Stage):
    """Reads what an earlier command wrote: a map, mask or trimap, and what belongs to it in other folders."""

    name: ClassVar[str] = "files read"
    kind: str
    """A key of ``READERS``: what the inputs are."""
    root: Path
    """The folder of the inputs."""
    beside: Mapping[str, Path] = field(default_factory=dict)
    """Folders of what belongs to each input, by kind; files of the same names."""
    images: Path | None = None
    """Where the images lie that the inputs belong to, if a later stage looks at them."""
    window: Window = "full"
    """How their 16-bit and float pixels become 8-bit."""
    reading: MaskReading = field(default_factory=MaskReading)
    """How masks are read."""
    drawn: Mapping[Path, Path] = field(default_factory=dict)
    """By the absolute paths of the machine's masks: those that people drew in their place."""

    def identity(self) -> dict[str, Any]:
        """With which settings the folders were written: they may be written again under their names."""
        others = {kind: str(folder.resolve()) for kind, folder in self.beside.items()}
        if self.images is not None:
            others |= {"images": str(self.images.resolve()), "window": self.window}
        runs = {f"{kind} run": provenance(folder) for kind, folder in {self.kind: self.root, **self.beside}.items()}
        masks = to_json(self.reading) if "mask" in (self.kind, *self.beside) else {}
        return {**others, **runs, **masks}

    def files(self, item: Item) -> tuple[Path, ...]:
        """The input, and what belongs to it in other folders."""
        return tuple(path for path, _ in self._paths(item).values())

    def deciding(self) -> tuple[Path, ...]:
        """What people said of masks: a mask that was drawn may have been taken back."""
        folder = self.root if self.kind == "mask" else self.beside.get("mask")
        place = None if folder is None else manifest_folder(folder) or folder
        return () if place is None else tuple(one for one in (place / CORRECTIONS, place / CORRECTED) if one.exists())

    def _paths(self, item: Item) -> dict[str, tuple[Path, MaskReading]]:
        """The files by kind, and how they are read: what a person drew is black and white, whatever else is."""
        beside = {kind: folder / f"{item.sample.name}.png" for kind, folder in self.beside.items()}
        found = {kind: (path, self.reading) for kind, path in {self.kind: item.sample.path, **beside}.items()}
        if "mask" in found and (drawn := self.drawn.get(found["mask"][0].absolute())) is not None:
            found["mask"] = drawn, MaskReading()
        return found

    def each(self, item: Item) -> Item:
        """The item with what its files hold."""
        read = {kind: READERS[kind](*found) for kind, found in self._paths(item).items()}
        cams = {"cam": read["cam"]} if "cam" in read else {}
        mask, void = read.get("mask", (None, None))
        return replace(item, cams=cams, mask=mask, void=void, trimap=read.get("trimap"))


def _write_mask(path: Path, item: Item) -> None:
    assert item.mask is not None
    write_mask(path, item.mask)


def _write_cam(path: Path, item: Item) -> None:
    assert item.cam is not None
    write_cam(path, item.cam)


def _write_trimap(path: Path, item: Item) -> None:
    assert item.trimap is not None
    write_image(path, item.trimap)


def _write_alpha(path: Path, item: Item) -> None:
    assert item.alpha is not None
    write_cam(path, item.alpha)


def _write_overlay(path: Path, item: Item) -> None:
    from camseg.measure.overlays import overlay_mask

    assert item.mask is not None
    write_image(path, overlay_mask(item.image, item.mask))


def _drawn(item: Item, method: str) -> Image:
    """A method's map over the image."""
    from camseg.measure.overlays import overlay_cam

    return overlay_cam(item.image, item.cams[method])


def _write_foreground(path: Path, item: Item) -> None:
    assert item.foreground is not None
    assert item.alpha is not None
    write_image(path, np.dstack([quantise(item.foreground), quantise(item.alpha)]))


WRITERS: Final[Mapping[str, Callable[[Path, Item], None]]] = {
    "mask": _write_mask,
    "cam": _write_cam,
    "trimap": _write_trimap,
    "alpha": _write_alpha,
    "overlay": _write_overlay,
    "foreground": _write_foreground,
}
"""How each kind of file is written."""


@dataclass(kw_only=True, eq=False)
class WriteStage(Stage):
    """Writes what was made of an item."""

    name: ClassVar[str] = "files"
    folder: Path
    """The output folder."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Keys of ``WRITERS``, with the subfolder of each; "" is the folder itself."""

    def kinds_written(self) -> frozenset[str]:
        """All."""
        return frozenset(self.kinds)

    def each(self, item: Item) -> Item:
        """The item with its files in the manifest; a kind of which nothing was made is left out."""
        made = {"trimap": item.trimap is not None, "alpha": item.alpha is not None}
        made["foreground"] = item.foreground is not None
        files = {}
        for kind, subfolder in self.kinds.items():
            if made.get(kind, True):
                files[kind] = f"{subfolder}/{item.name}.png".removeprefix("/")
                if kind not in item.kept:
                    WRITERS[kind](self.folder / files[kind], item)
        return replace(item, record=replace(item.record, files=files))


@dataclass(kw_only=True, eq=False)
class WriteCamsStage(Stage):
    """Writes each method's map into a folder of its own."""

    name: ClassVar[str] = "files"
    folder: Path
    """The output folder."""
    raw: bool = False
    """As float32 TIFF, unnormalised, instead of 8-bit PNG."""
    overlays: tuple[str, ...] = ()
    """The methods whose maps are also drawn over the image."""

    def kinds_written(self) -> frozenset[str]:
        """Pictures; maps are of the methods that there are."""
        return frozenset(f"{method} overlay" for method in self.overlays)

    def each(self, item: Item) -> Item:
        """The item with its files in the manifest."""
        suffix, write = (".tif", write_raw) if self.raw else (".png", write_cam)
        files = {method: f"{method}/{item.name}{suffix}" for method in item.cams}
        for method, file in files.items():
            if method not in item.kept:
                write(self.folder / file, item.cams[method])
        for method in self.overlays:
            file = files[f"{method} overlay"] = f"overlays/{method}/{item.name}.png"
            if f"{method} overlay" not in item.kept:
                write_image(self.folder / file, _drawn(item, method))
        return replace(item, record=replace(item.record, files=files))


_SINGULAR: Final = {"cams": "cam", "trimaps": "trimap", "alphas": "alpha", "overlays": "overlay"}


def saved_kinds(save: Sequence[str]) -> dict[str, str]:
    """The kinds of files that a chain writes, masks and what is asked for, with their subfolders."""
    return {"mask": "masks"} | {_SINGULAR[kind]: kind for kind in _SINGULAR if kind in save}
