"""The stages that run a segmentation network: images -> probabilities, and of exclusive classes masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from camseg.base.arrays import dequantise, quantise
from camseg.base.errors import InputError
from camseg.base.settings import to_json
from camseg.classify.targets import why_empty
from camseg.data.datasets import Sample
from camseg.data.images import read_image
from camseg.masks.consensus import agreement
from camseg.masks.quality import working_size
from camseg.propagation.propagate import propagate
from camseg.propagation.settings import PropagateSettings, make_settings
from camseg.runs.stage import Item, Place, Stage, failed_item, waiting_pixels
from camseg.segment.segmenter import Segmenter, mean_of_views
from camseg.segment.settings import ViewSettings

METHOD: Final = "probability"
"""What such maps are called in manifests."""
LIKELIEST: Final = "likeliest"
"""The threshold of masks whose class is the likeliest one."""


@dataclass(kw_only=True, eq=False)
class TileStage(Stage):
    """Reads an image and makes the network's inputs of it."""

    name: ClassVar[str] = "images"
    segmenter: Segmenter
    """Says of which size, in which window."""
    tile: int | None
    """As in ``ViewSettings``."""

    def files(self, item: Item) -> tuple[Path, ...]:
        """The image."""
        return (item.sample.path,)

    def each(self, item: Item) -> Item:
        """The item with its inputs, and with its pixels unless they are too many to wait."""
        image = read_image(item.sample.path, self.segmenter.window)
        squares = tuple(self.segmenter.squares(image, self.tile))
        return replace(item, squares=squares, size=image.shape[:2], pixels=waiting_pixels(image))


@dataclass(kw_only=True, eq=False)
class SegmentStage(Stage):
    """Runs the network on the images of a batch, tile by tile."""

    name: ClassVar[str] = "segmentation"
    segmenter: Segmenter
    settings: ViewSettings
    """How images are shown to it."""
    batch_size: int
    """Inputs per pass, on which the last bits depend."""

    @property
    def place(self) -> Place:
        """With all images of a batch at once."""
        return "batch"

    def setup(self, device: str) -> None:
        """Bring the network to the device."""
        self.segmenter.model.to(device)

    def identity(self) -> dict[str, Any]:
        """The settings, the segmenter with its negative labels, and the batches."""
        return {
            **to_json(self.settings),
            "segmenter": self.segmenter.fingerprint(),
            "batch_size": self.batch_size,
        }

    def __call__(self, batch: Sequence[Item]) -> list[Item]:
        """The items with probabilities; of images that could not be read blanks take part in the batch."""
        blank = self.segmenter.to_input(np.zeros((1, 1, 3), np.uint8))
        inputs = [(blank,) if item.done else item.squares for item in batch]
        stacked = torch.from_numpy(np.stack([square for squares in inputs for square in squares]))
        parts = [self.segmenter.views(part, self.settings.flip) for part in stacked.split(self.batch_size)]
        grids = np.concatenate([mean_of_views(views).cpu().numpy() for views in parts])
        small = np.concatenate([_small(views) for views in parts])  # (squares, views, channels, s, s)
        done, start = [], 0
        for item, squares in zip(batch, inputs, strict=True):
            own = grids[start : start + len(squares)]
            views = small[start : start + len(squares)]
            start += len(squares)
            if item.done:
                done.append(item)
            elif not np.isfinite(own).all():
                done.append(failed_item(item, InputError("its probabilities are not finite numbers; train again")))
            else:
                done.append(replace(item, squares=(), grids={METHOD: tuple(own)}, views=(views,)))
        return done


def _small(views: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    """Probabilities of each view (N, channels, S, S) -> (N, views, channels, s, s), at the size of comparisons."""
    stacked = torch.stack(tuple(views), dim=1)
    height, width = working_size(*stacked.shape[-2:])
    pooled = functional.interpolate(stacked.flatten(0, 1), (height, width), mode="area")
    return pooled.unflatten(0, stacked.shape[:2]).cpu().numpy()


@dataclass(kw_only=True, eq=False)
class PixelStage(Stage):
    """Brings probabilities to the image's size, and spreads them over what looks alike there: one item per class, with
    the 8-bit map that files hold."""

    name: ClassVar[str] = "placing"
    segmenter: Segmenter
    tile: int | None
    """As in ``ViewSettings``."""
    gate: bool
    """Whether known labels exclude classes."""
    likeliest: bool
    """Whether the mask of a class is where it is likelier than the others and the background."""
    propagation: PropagateSettings
    """How probabilities are spread."""
    device: str = field(default="cpu", init=False)

    def setup(self, device: str) -> None:
        """Take note of the device."""
        self.device = device

    def identity(self) -> dict[str, Any]:
        """What labels exclude, whether the likeliest class wins, and how probabilities are spread, if they are."""
        spread = {} if self.propagation.method == "none" else {"propagation": to_json(self.propagation)}
        return {"gate": self.gate, LIKELIEST: self.likeliest, **spread}

    def __call__(self, batch: Sequence[Item]) -> list[Item]:
        """An item per class."""
        return [one for item in batch for one in self._classes(item)]

    def _classes(self, item: Item) -> list[Item]:
        segmenter, grids = self.segmenter, np.stack(item.grids[METHOD])
        height, width = item.size
        why = {name: self._excluded(item.sample, name) if self.gate else None for name in segmenter.classes}
        found = segmenter.place(grids, height, width, self.tile)  # (channels, H, W)
        out = [segmenter.channel(name) for name, excluded in why.items() if excluded]
        if len(out) < len(why):
            found = self._spread(item, found, leave=out)
        winners = _without(found, out).argmax(axis=0) if self.likeliest else None
        items = []
        for name, excluded in why.items():
            channel = segmenter.channel(name)
            cam = np.zeros(item.size, np.float32) if excluded else dequantise(quantise(found[channel]))
            mask = None if winners is None else (winners == channel) & (excluded is None)
            empty = excluded
            if mask is not None and not mask.any():
                empty = excluded or "nowhere the likeliest class"
            record = replace(
                item.record,
                class_name=name,
                score=round(float(found[channel].max()), 6),
                method=METHOD,
                propagation=self.propagation.method,
                threshold=None if mask is None else LIKELIEST,
                empty=empty,
                quality=1.0 if excluded else None,
                agreements={} if excluded else self._flips(item, channel, out),
            )
            named = f"{name}/{item.name}" if segmenter.several else item.name
            items.append(replace(item, name=named, record=record, cams={METHOD: cam}, mask=mask, grids={}, views=()))
        return items

    def _spread(self, item: Item, found: NDArray[np.float32], leave: Sequence[int]) -> NDArray[np.float32]:
        """Probabilities (channels, H, W) spread one by one, but for some channels; each keeps its maximum: unlikely is
        unlikely."""
        method = self.propagation.method
        if method == "none":
            return found
        settings = make_settings(method, self.propagation.args)
        spread = found.copy()
        for channel, one in enumerate(found):
            if channel not in leave:
                spread[channel] = propagate(item.image, one, method, settings=settings, device=self.device) * one.max()
        return spread

    def _flips(self, item: Item, channel: int, out: Sequence[int]) -> dict[str, float]:
        """How far the mask of the mirrored image agrees, where that was looked at."""
        (views,) = item.views  # (tiles, views, channels, s, s)
        if views.shape[1] == 1:
            return {}
        masks = _without(views, out).argmax(axis=2) == channel if self.likeliest else views[:, :, channel] > 0.5
        return {"flips": agreement([masks[:, view].reshape(-1, masks.shape[-1]) for view in range(masks.shape[1])])}

    def _excluded(self, sample: Sample, class_name: str) -> str | None:
        """Why an image's labels say that a class is not in it, in words; None where they do not."""
        labels, negative = sample.labels, self.segmenter.negative
        if labels is None:
            return None
        if set(labels) <= set(negative):
            return why_empty(labels)
        known = set(labels) <= {*self.segmenter.classes, *negative}
        return f"labelled {', '.join(labels)}" if known and class_name not in labels else None


def _without(found: NDArray[np.float32], out: Sequence[int]) -> NDArray[np.float32]:
    """Probabilities (..., channels, h, w) with those of some channels 0: of exclusive classes each pixel goes to the
    likeliest that labels leave."""
    left = found.copy()
    left[..., list(out), :, :] = 0
    return left
