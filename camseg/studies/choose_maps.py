"""What a run makes of an image: its map toward a class, masks of it, and how faithful the map is to the network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Image, Mask
from camseg.cams.compute import classifier_features, compute_by_settings
from camseg.cams.predict import predict
from camseg.classify.checkpoint import AnyClassifier
from camseg.data.images import read_image
from camseg.masks.threshold import cam_to_mask
from camseg.measure.faithfulness import deletion_curve, insertion_curve
from camseg.propagation.propagate import propagate
from camseg.propagation.settings import PropagateSettings
from camseg.studies.settings import ChooseSettings

IMAGE_SIDE: Final = 512
"""Longest side of the images that are looked at; larger ones are made smaller first."""
MASK_SIDE: Final = 256
"""Longest side of the masks that are compared."""
STEPS: Final = 20
"""Steps of insertion and deletion curves."""
ByWindow: TypeAlias = Mapping[str, Image]
"""An image as it looks in each window."""


@dataclass(kw_only=True, eq=False)
class BatchMaps:
    """A batch of images through a run's network: nothing is computed before it is asked for, and nothing twice."""

    classifier: AnyClassifier
    load: Callable[[], tuple[Sequence[ByWindow], Sequence[str]]]
    """Gives the images, and the class toward which each is looked at."""
    settings: ChooseSettings

    @cached_property
    def inputs(self) -> tuple[Sequence[ByWindow], Sequence[str]]:
        """What ``load`` gives."""
        return self.load()

    @cached_property
    def cams(self) -> list[Cam]:
        """Of each image its map, float32 (H, W)."""
        (images, targets), cams, size = self.inputs, self.settings.cams, self.settings.batch_size
        return compute_by_settings(self.classifier, images, cams, targets, batch_size=size)[cams.methods[0]]

    def spread(self, name: str) -> list[Cam]:
        """The maps spread in one way, or as they are for ``none``, at ``MASK_SIDE``: float32 (h, w) each."""
        images, found = [views[self.classifier.window] for views in self.inputs[0]], []
        for image, cam in zip(images, self.cams, strict=True):
            wide = cam
            if name != "none":
                guided = PropagateSettings(method=name).needs_features
                features = classifier_features(self.classifier, image) if guided else None
                wide = propagate(image, cam, name, features=features, device=self.classifier.device)
            found.append(shrunk(wide, MASK_SIDE))
        return found

    def faithfulness(self, count: int) -> list[float]:
        """Of the first ``count`` images what ``faithfulness`` says of their maps."""
        images, targets = self.inputs
        return [
            faithfulness(self.classifier, views[self.classifier.window], cam, target, self.settings)
            for views, cam, target in zip(images[:count], self.cams, targets, strict=False)
        ]


def masks_of(maps: Mapping[str, Sequence[Cam]], settings: ChooseSettings) -> list[list[Mask]]:
    """Of each image a mask for every setting, in the order of ``propagations``, of each that of ``thresholds``.

    ``maps``: by the name of a propagation what ``BatchMaps.spread`` gives.
    """
    spread = zip(*(maps[name] for name in settings.propagations), strict=True)
    return [[cam_to_mask(cam, threshold) for cam in cams for threshold in settings.thresholds] for cams in spread]


def read_views(classifier: AnyClassifier, path: Path) -> dict[str, Image]:
    """An image at ``IMAGE_SIDE`` in each window that a classifier reads; raises ImageError."""
    windows = dict.fromkeys((classifier.window, *(member.window for member in classifier.members)))
    return {window: shrunk(read_image(path, window), IMAGE_SIDE) for window in windows}


def all_views(classifier: AnyClassifier, paths: Sequence[Path]) -> list[ByWindow]:
    """``read_views`` of several images."""
    return [read_views(classifier, path) for path in paths]


def faithfulness(classifier: AnyClassifier, image: Image, cam: Cam, target: str, settings: ChooseSettings) -> float:
    """The area under the insertion curve minus that under the deletion curve, in [-1, 1]."""
    place, windows = classifier.class_index(target), [member.window for member in classifier.members]

    def score(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(classifier, [dict.fromkeys(windows, one) for one in images])[:, place]

    insertion, deletion = insertion_curve, deletion_curve
    mean = 255 * np.asarray(classifier.members[0].mean)
    size = settings.batch_size
    return (
        insertion(score, image, cam, steps=STEPS, batch_size=size).area
        - deletion(score, image, cam, baseline=mean, steps=STEPS, batch_size=size).area
    )


def shrunk(pixels: NDArray[Any], longest: int) -> NDArray[Any]:
    """An array (H, W, ...) with sides of at most so many pixels."""
    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1.0:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
