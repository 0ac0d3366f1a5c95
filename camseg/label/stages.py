"""The stages behind the network: maps -> masks, trimaps, alphas. They load torch only where propagation needs it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from camseg.base.arrays import UNKNOWN, Cam, Mask, Trimap, dequantise, quantise
from camseg.base.errors import InputError
from camseg.masks.cleaning import clean
from camseg.masks.consensus import FUSIONS, central_weights, centrality, pairwise_dice
from camseg.masks.settings import CleaningSettings, FusionSettings, MaskSettings, Threshold
from camseg.masks.threshold import cam_to_mask
from camseg.propagation.settings import PropagateSettings, make_settings
from camseg.refinement.refine import open_refiner, refine_with_report, warm_up, weights_hash
from camseg.refinement.settings import RefineSettings, TrimapSettings
from camseg.refinement.trimaps import mask_to_trimap, masks_to_trimap, published_trimap, unusable
from camseg.runs.record import Record
from camseg.runs.stage import Item, Place, Stage


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
            open_refiner(self.settings, self.device)
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
