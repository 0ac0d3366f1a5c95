"""The stages behind the network: files and maps -> masks -> files. They load torch only where propagation needs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from camseg.base.arrays import UNKNOWN, Cam, Image, Mask, Trimap, dequantise, quantise
from camseg.base.errors import InputError
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
from camseg.masks.cleaning import clean
from camseg.masks.consensus import FUSIONS, central_weights, centrality, pairwise_dice
from camseg.masks.settings import CleaningSettings, FusionSettings, MaskSettings, Threshold
from camseg.masks.threshold import cam_to_mask
from camseg.propagation.settings import PropagateSettings, make_settings
from camseg.refinement.refine import open_network, refine_with_report, warm_up, weights_hash
from camseg.refinement.settings import RefineSettings, TrimapSettings
from camseg.refinement.trimaps import mask_to_trimap, masks_to_trimap, published_trimap, unusable
from camseg.runs.lineage import provenance
from camseg.runs.record import Record
from camseg.runs.stage import Item, Place, Stage

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


@dataclass(kw_only=True, eq=False)
class PropagateStage(Stage):
    """Spreads the map over what looks alike."""

    name: ClassVar[str] = "propagation"
    settings: PropagateSettings
    """Which propagator, and how."""
    device: str = field(default="cpu", init=False)

    def setup(self, device: str) -> None:
        """Take note of the device."""
        self.device = device

    def files(self, item: Item) -> tuple[Path, ...]:
        """The image."""
        return () if item.source is None else (item.source,)

    def each(self, item: Item) -> Item:
        """The item with the spread map in place of the map, as the 8-bit map that a file would hold."""
        method = self.settings.method
        record = replace(item.record, propagation=method)
        if method == "none":
            return replace(item, record=record)
        from camseg.propagation.propagate import propagate  # loads torch

        image, chosen = item.image, make_settings(method, self.settings.args)
        assert item.cam is not None

        def spread(cam: Cam) -> Cam:
            wide = propagate(image, cam, method, settings=chosen, features=item.features, device=self.device)
            return dequantise(quantise(wide))

        # Where members stay apart, what they are together is not known yet.
        members = tuple(spread(cam) for cam in item.members)
        cams = {method: item.cam if members else spread(item.cam)}
        return replace(item, record=record, cams=cams, members=members, pixels=image, features=None)


@dataclass(kw_only=True, eq=False)
class FuseStage(Stage):
    """Makes one map of those of an ensemble's members, and says how far their masks agree."""

    name: ClassVar[str] = "fusion"
    settings: FusionSettings
    """How."""
    threshold: Threshold
    """At which level their masks are cut."""
    shares: tuple[float, ...]
    """How much each member counts by itself."""

    def identity(self) -> dict[str, Any]:
        """The settings, and the level."""
        return {**super().identity(), "threshold": str(self.threshold)}

    def each(self, item: Item) -> Item:
        """The item with the fused map; as it is where no member has a map."""
        if not item.members:
            return item
        masks = [cam_to_mask(cam, self.threshold) for cam in item.members]
        central = centrality(pairwise_dice(masks))
        weights = central_weights(central, self.shares, self.settings.centrality or np.inf)
        record = replace(item.record, agreement=round(float(central.mean()), 4))
        how, cams = self.settings.fusion, item.cams
        if how != "maps" or self.settings.centrality is not None:  # else the map is their mean already
            maps = [mask.astype(np.float32) for mask in masks] if how == "votes" else item.members
            cams = {method: dequantise(quantise(FUSIONS[how](maps, weights))) for method in cams}
        return replace(item, record=record, cams=cams, members=())


def _with_mask(record: Record, mask: Mask, reason: str) -> Record:
    """What a record says of an empty mask: the first reason, until there is a mask."""
    return replace(record, empty=None if mask.any() else record.empty or reason)


def _lacks(record: Record, trimap: Trimap) -> str | None:
    """``unusable``, with the reason for an empty mask where one is known."""
    found = unusable(trimap)
    return record.empty or found if found == "empty mask" else found


@dataclass(kw_only=True, eq=False)
class ThresholdStage(Stage):
    """Binarises the map."""

    name: ClassVar[str] = "masks"
    settings: MaskSettings
    """The threshold."""

    def each(self, item: Item) -> Item:
        """The item with its mask."""
        assert item.cam is not None
        threshold = self.settings.threshold
        mask = cam_to_mask(item.cam, threshold)
        record = replace(item.record, threshold=str(threshold))
        return replace(item, record=_with_mask(record, mask, "nothing lies above the threshold"), mask=mask)


@dataclass(kw_only=True, eq=False)
class TrimapStage(Stage):
    """Makes a trimap of the mask, with what a map is sure of, or of the map by two thresholds."""

    name: ClassVar[str] = "trimap"
    settings: TrimapSettings
    """The recipe."""

    def each(self, item: Item) -> Item:
        """The item with its trimap, and what that lacks as its fallback."""
        chosen, cam, mask = self.settings, item.cam, item.mask
        if chosen.low is not None and chosen.high is not None:
            if cam is None:
                raise InputError("two thresholds cut a trimap from a map; a mask has none")
            trimap = masks_to_trimap(cam_to_mask(cam, chosen.high), cam_to_mask(cam, chosen.low))
        elif mask is None:
            raise InputError("morphology makes a trimap from a mask; give one, or a low and a high threshold")
        elif chosen.recipe == "published":
            trimap = published_trimap(mask)
        else:
            sure = None if cam is None or chosen.sure is None else cam_to_mask(cam, chosen.sure)
            trimap = mask_to_trimap(
                mask, open=chosen.open, close=chosen.close, dilate=chosen.dilate, erode=chosen.erode, sure=sure
            )
        fallback = _lacks(item.record, trimap)
        if item.void is not None and trimap.any():
            trimap[item.void] = UNKNOWN  # nobody has said what lies there
            fallback = unusable(trimap)
        return replace(item, record=replace(item.record, fallback=fallback), trimap=trimap)


@dataclass(kw_only=True, eq=False)
class RefineStage(Stage):
    """Decides the trimap's unknown band from the image, or keeps the mask where that would harm."""

    name: ClassVar[str] = "refinement"
    settings: RefineSettings
    """Which refiner."""
    colors: bool = False
    """Whether the object's colours are wanted too."""
    device: str = field(default="cpu", init=False)

    @property
    def place(self) -> Place:
        """In worker processes; a trained network stays here, for its weights are loaded once and there may be one
        device only."""
        return "thread" if self.settings.method == "none" or self.settings.weights is not None else "process"

    def setup(self, device: str) -> None:
        """Load a trained network's weights; compile what others need, before worker processes would each do so."""
        self.device = device if self.settings.weights is not None else "cpu"
        if self.settings.method != "none":
            open_network(self.settings.method, self.settings.weights, self.device)
            warm_up(self.settings.method, colors=self.colors)

    def files(self, item: Item) -> tuple[Path, ...]:
        """The image."""
        return () if item.source is None else (item.source,)

    def identity(self) -> dict[str, Any]:
        """The settings, and what the file or folder of weights holds."""
        weights = self.settings.weights
        return super().identity() | ({} if weights is None else {"weights_sha256": weights_hash(weights)})

    def each(self, item: Item) -> Item:
        """The item with its alpha, the mask that follows from it, and which refiner decided or why none did."""
        method = self.settings.method
        if method == "none":
            return replace(item, record=replace(item.record, refiner=method))
        image, trimap = item.image, item.trimap
        assert trimap is not None
        refined = refine_with_report(
            image,
            trimap,
            method,
            item.mask,
            self.colors,
            cam=item.cam,
            weights=self.settings.weights,
            device=self.device,
        )
        alpha = dequantise(quantise(refined.alpha))
        # Where the trimap is to blame, what it lacks tells more.
        fallback = refined.fallback and (_lacks(item.record, trimap) or refined.fallback)
        record = replace(item.record, refiner=refined.method or method, fallback=fallback)
        return replace(
            item, record=record, alpha=alpha, mask=alpha > 0.5, before=item.mask, foreground=refined.foreground
        )


@dataclass(kw_only=True, eq=False)
class CleanStage(Stage):
    """Smooths the mask, fills its holes, drops islands: what the settings ask for."""

    name: ClassVar[str] = "cleaning"
    settings: CleaningSettings
    """What is done."""

    def each(self, item: Item) -> Item:
        """The item with its final mask and its area."""
        assert item.mask is not None
        mask = clean(item.mask, self.settings)
        reason = "cleaning left nothing" if item.mask.any() else item.record.fallback or "refinement left nothing"
        record = replace(_with_mask(item.record, mask, reason), area=int(np.count_nonzero(mask)))
        return replace(item, record=record, mask=mask)


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
