"""The stages that run a network: images -> maps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Mask, dequantise, quantise
from camseg.base.errors import ImageError, InputError
from camseg.base.progress import Say, unheard
from camseg.cams.capture import Network
from camseg.cams.extract import BatchCams, BatchLimit, extract, stack_inputs
from camseg.cams.layers import find_guide
from camseg.cams.placing import features_over_image, mean_of_members, members_over_image, members_views
from camseg.cams.plan import Plan
from camseg.classify.checkpoint import AnyClassifier
from camseg.classify.targets import TargetRule, why_empty
from camseg.data.datasets import Sample
from camseg.data.images import read_image
from camseg.data.truth import MaskSource, class_regions
from camseg.masks.quality import working_size
from camseg.runs.stage import Item, Place, Stage, failed_item, waiting_pixels


@dataclass(kw_only=True, eq=False)
class LoadStage(Stage):
    """Reads an image and makes the networks' inputs of it."""

    name: ClassVar[str] = "images"
    plan: Plan
    """Says of which sizes, in which windows."""
    masks: MaskSource | None = None
    """For the score ``mask`` of a segmenter: over which pixels it is."""

    def files(self, item: Item) -> tuple[Path, ...]:
        """The image and its masks."""
        return (item.sample.path, *(() if self.masks is None else self.masks.files(item.sample)))

    def identity(self) -> dict[str, Any]:
        """The masks, where there are any."""
        return {} if self.masks is None else {"masks": str(self.masks.root), **self.masks.facts()}

    def each(self, item: Item) -> Item:
        """The item with its inputs, and with its pixels unless they are too many to wait."""
        views = {
            window: read_image(item.sample.path, window) if item.pixels is None else item.pixels
            for window in self.plan.windows
        }
        image = views[self.plan.classifier.window]
        height, width = image.shape[:2]
        kept = waiting_pixels(image) if item.pixels is None else image
        squares = self.plan.inputs(views, self._regions(item.sample, height, width))
        return replace(item, squares=tuple(squares), size=(height, width), pixels=kept)

    def _regions(self, sample: Sample, height: int, width: int) -> list[Mask] | None:
        if self.masks is None:
            return None
        if not self.masks.knows(sample):
            raise ImageError(f"{sample.path}: no mask of it in {self.masks.root}; add one, or leave the image out")
        return class_regions(self.masks, self.masks.read(sample, height, width), self.plan.classifier.classes)


@dataclass(kw_only=True, eq=False)
class CamStage(Stage):
    """Runs the network: one item per target class, with its fused maps."""

    name: ClassVar[str] = "cams"
    plan: Plan
    """The classifier and settings, made ready."""
    rule: TargetRule
    """For which classes an image gets maps."""
    batch_size: int
    """How many images a batch holds, whose last bits depend on it."""
    say: Say = unheard
    """Hears when memory is short."""
    views: bool = False
    """Whether each view's maps are kept too, for ``QualityStage``; then there is one method."""
    limit: BatchLimit = field(init=False)

    def __post_init__(self) -> None:
        self.hear(self.say)

    def hear(self, say: Say) -> None:
        """Tell ``say`` when memory is short, and that anew."""
        self.say, self.limit = say, BatchLimit(say)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "say": unheard, "limit": BatchLimit()}

    @property
    def place(self) -> Place:
        """With all images of a batch at once."""
        return "batch"

    def setup(self, device: str) -> None:
        """Bring the networks to the device."""
        for member in self.plan.classifier.members:
            member.model.to(device)

    def identity(self) -> dict[str, Any]:
        """The settings, the classifier with its negative classes, the targets and the batches."""
        return {
            **self.plan.settings.identity(),
            "targets": list(self.rule.given),
            "classifier": self.plan.classifier.fingerprint(),
            "batch_size": self.batch_size,
        }

    def __call__(self, batch: Sequence[Item]) -> list[Item]:
        """One item per image and target; of images that could not be read blanks take part in the batch."""
        blank = self.plan.inputs(dict.fromkeys(self.plan.windows, np.zeros((1, 1, 3), np.uint8)))
        inputs = stack_inputs([blank if item.done else item.squares for item in batch])

        def choose(n: int, probabilities: NDArray[np.float32]) -> Sequence[int]:
            item = batch[n]
            return [] if item.done else self.rule.targets(self.plan.classifier, item.sample, probabilities)

        found = extract(self.plan, inputs, choose, self.limit, apart=self.views)
        return [one for n, item in enumerate(batch) for one in ([item] if item.done else self._classes(item, n, found))]

    def _classes(self, item: Item, n: int, found: BatchCams) -> list[Item]:
        classifier, probabilities = self.plan.classifier, found.probabilities[n]
        if not np.isfinite(probabilities).all():
            error = InputError("the classifier's scores of it are not finite numbers; train it again")
            return [failed_item(item, error)]
        record = replace(
            item.record,
            method=",".join(self.plan.settings.methods),
            # Members' layers stand one after the other.
            layer=";".join(",".join(member.network.layers) for member in self.plan.members),
            scales=tuple(sorted({scale for member in self.plan.members for scale in member.scales})),
        )
        features = None
        if found.guides is not None:
            features = features_over_image(classifier, found.guides[n], *item.size)
        base = replace(item, record=record, squares=(), features=features)
        empty = self.rule.is_empty(classifier, item.sample)
        items = []
        for k, target in enumerate(found.targets[n]):
            name = classifier.classes[target]
            score = round(float(probabilities[target]), 6)
            items.append(
                replace(
                    base,
                    name=f"{name}/{item.name}" if self.rule.per_class else item.name,
                    record=replace(
                        record,
                        class_name=name,
                        score=score,
                        empty=self._why_empty(item.sample, name)
                        or (self._without_pixels(name) if target in found.without_pixels[n] else None),
                        quality=self._sure_of_nothing(item.sample, name, score),
                    ),
                    grids={} if empty else {method: maps[n][k] for method, maps in found.maps.items()},
                    views=() if empty or not self.views else found.views[n][k],
                )
            )
        # Without a folder per class an image without any class has a mask too, an empty one.
        known = self._knows(item.sample)
        reason = (known and why_empty(item.sample.labels or ())) or "none of the classes predicted"
        sure = 1.0 if known else round(1.0 - float(probabilities.max()), 6)
        record = replace(record, empty=reason, quality=sure)
        return items or [replace(base, record=record, done=self.rule.per_class)]

    def _why_empty(self, sample: Sample, target: str) -> str | None:
        """Why the map of a class is all zero whatever the network sees, in words; None where it is not."""
        negative, labels = self.plan.classifier.negative, sample.labels
        if self.rule.is_empty(self.plan.classifier, sample):
            return why_empty(labels or ())
        if target not in negative or not self.plan.settings.gate:
            return None
        chosen = self.rule.word in ("predicted", "likeliest") or (self.rule.word == "auto" and labels is None)
        return f"predicted {target}, a negative class" if chosen else f"{target} is a negative class"

    def _sure_of_nothing(self, sample: Sample, target: str, score: float) -> float | None:
        """How sure it is that there is nothing to find: 1 where a label says so, the probability of a negative class;
        None where something is looked for."""
        if self._why_empty(sample, target) is None:
            return None
        return 1.0 if self._knows(sample) else score

    def _knows(self, sample: Sample) -> bool:
        """Whether an image's label counts."""
        return self.rule.word != "predicted" and sample.labels is not None

    def _without_pixels(self, target: str) -> str:
        masked = self.plan.members[0].network.score == "mask"
        return f"the given mask of {target} is empty" if masked else f"no pixel is predicted as {target}"


@dataclass(kw_only=True, eq=False)
class PlaceStage(Stage):
    """Brings fused maps to the image's size; unless they are raw, as the 8-bit maps that files hold."""

    name: ClassVar[str] = "placing"
    plan: Plan
    """Says where an image lies in the networks' inputs."""
    apart: bool = False
    """Whether an ensemble's maps are kept by member too, for ``FuseStage``; then there is one method."""

    def each(self, item: Item) -> Item:
        """The item with its maps; all zero where the image is known to hold no object."""
        settings, cams = self.plan.settings, {}
        members: tuple[Cam, ...] = ()
        classifier = self.plan.classifier
        for method in settings.methods:
            cam = np.zeros(item.size, np.float32)
            if item.grids:
                own: Iterable[Cam] = members_over_image(classifier, item.grids[method], *item.size, settings.raw)
                if self.apart:
                    own = list(own)
                    members = tuple(dequantise(quantise(one)) for one in own)
                cam = mean_of_members(classifier, own, settings.raw)
            cams[method] = cam if settings.raw else dequantise(quantise(cam))
        views = members_views(classifier, item.views, *working_size(*item.size))
        empty = item.record.empty
        if zero := [method for method, cam in cams.items() if not cam.any()]:
            empty = empty or f"nothing speaks for the class by {', '.join(zero)}"
        record = replace(item.record, empty=empty)
        return replace(item, cams=cams, members=members, views=views, grids={}, record=record)


@dataclass(kw_only=True, eq=False)
class SquareStage(Stage):
    """Makes the first network's input of the image that a map belongs to, for ``FeatureStage``."""

    name: ClassVar[str] = "images"
    classifier: AnyClassifier
    """Whose first member is meant."""

    def each(self, item: Item) -> Item:
        """The item with its input and its pixels."""
        image = item.image
        square = self.classifier.members[0].to_input(image)
        return replace(item, squares=(square,), size=image.shape[:2], pixels=image)


@dataclass(kw_only=True, eq=False)
class FeatureStage(Stage):
    """Runs the first network for what it sees where, in one pass per batch."""

    name: ClassVar[str] = "features"
    classifier: AnyClassifier
    """Whose first member is meant."""
    batch_size: int
    """As in CamStage."""

    @property
    def place(self) -> Place:
        """With all images of a batch at once."""
        return "batch"

    def setup(self, device: str) -> None:
        """Bring the network to the device."""
        self.classifier.members[0].model.to(device)

    def identity(self) -> dict[str, Any]:
        """The classifier and the batches."""
        return {"classifier": self.classifier.fingerprint(), "batch_size": self.batch_size}

    def __call__(self, batch: Sequence[Item]) -> list[Item]:
        """The items with their features; of images that could not be read blanks take part in the batch."""
        first = self.classifier.members[0]
        blank = first.to_input(np.zeros((1, 1, 3), np.uint8))
        (squares,) = stack_inputs([[blank] if item.done else item.squares for item in batch])
        layer = find_guide(first)
        guide = (
            Network(classifier=first, layers=()).forward(first.normalise(squares), gradients=False, guide=layer).guide
        )
        assert guide is not None
        maps = guide.cpu().numpy()
        return [
            item
            if item.done
            else replace(item, squares=(), features=features_over_image(self.classifier, maps[n], *item.size))
            for n, item in enumerate(batch)
        ]
