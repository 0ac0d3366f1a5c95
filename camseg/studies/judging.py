"""What a classifier and its maps are worth on test images: by true masks, or without them by the classifier's score."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Image, quantise
from camseg.base.progress import Progress
from camseg.cams.compute import compute_by_settings
from camseg.cams.predict import predict
from camseg.cams.settings import CamSettings
from camseg.classify.checkpoint import AnyClassifier
from camseg.data.datasets import Sample
from camseg.data.images import read_image
from camseg.measure.faithfulness import confidence_drop, filter_image
from camseg.measure.metrics import classification_metrics, dice, known_pixels, threshold_counts
from camseg.studies.material import StudyImages, in_batches, own_class

WITHOUT_MASKS: Final = 64
"""Most test images whose maps are made where no masks judge them, evenly over the sorted names."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The images on which every classifier is judged, and how its maps are extracted there."""

    val: StudyImages
    """Whose masks choose the threshold; without masks where there are none for ``test``."""
    test: StudyImages
    """Whose scores count."""
    cams: CamSettings
    """How maps are extracted; the method is said each time."""
    batch_size: int
    """Images per pass of the network."""
    progress: Progress
    """Shows how far the work is."""

    def classifier(self, classifier: AnyClassifier, name: str) -> dict[str, Any]:
        """``parameters``, ``accuracy`` and ``macro_f1`` on the test images."""
        data = self.test.data
        rows = [
            predict(classifier, [_views(classifier, sample) for sample in batch])
            for batch in in_batches(data.samples, self.batch_size, self.progress, f"{name}, test images")
        ]
        scores, classes = np.concatenate(rows), classifier.classes
        found = classification_metrics(data.targets(classes), scores, classes, False)
        count = sum(parameter.numel() for member in classifier.members for parameter in member.model.parameters())
        return {"parameters": count, **{key: found[key] for key in ("accuracy", "macro_f1")}}

    def maps(self, classifier: AnyClassifier, method: str, title: str) -> dict[str, Any]:
        """What the maps of one method are worth, by the images' names, and the ``seconds`` that one takes.

        With masks ``mean_dice``, and ``dice`` at the ``level`` that is best on the validation images; else
        ``average_drop``.
        """
        seconds: list[float] = []
        if not self.test.masks:
            samples = [one for one in self.test.data.samples if own_class(one) not in classifier.negative]
            places = np.linspace(0, len(samples) - 1, min(WITHOUT_MASKS, len(samples))).round().astype(int)
            drops: dict[str, float] = {}
            for sample, views, cam, each in self._extract(classifier, method, [samples[n] for n in places], title):
                drops[sample.name] = _average_drop(classifier, sample, views, cam)
                seconds.append(each)
            return {"average_drop": drops, "seconds": float(np.mean(seconds))}
        curves: dict[str, NDArray[np.float64]] = {}  # (256,) each
        for sample, _, cam, _ in self._extract(classifier, method, self.val.objects, f"{title}, validation"):
            curves[sample.name] = _dice_curve(self.val, sample, cam)
        level = int(np.mean(list(curves.values()), axis=0).argmax())
        curves = {}
        for sample, _, cam, each in self._extract(classifier, method, self.test.objects, title):
            curves[sample.name] = _dice_curve(self.test, sample, cam)
            seconds.append(each)
        return {
            "mean_dice": {name: float(curve.mean()) for name, curve in curves.items()},
            "dice": {name: float(curve[level]) for name, curve in curves.items()},
            "level": level,
            "seconds": float(np.mean(seconds)),
        }

    def _extract(
        self, classifier: AnyClassifier, method: str, samples: Sequence[Sample], title: str
    ) -> Iterator[tuple[Sample, Mapping[str, Image], Cam, float]]:
        """Every image by window, with the map of its own class, and the seconds from its file to that."""
        settings = replace(self.cams, methods=(method,))
        for batch in in_batches(samples, self.batch_size, self.progress, title):
            started = time.perf_counter()
            images = [_views(classifier, sample) for sample in batch]
            targets = [own_class(sample) for sample in batch]
            maps = compute_by_settings(classifier, images, settings, targets, batch_size=self.batch_size)[method]
            each = (time.perf_counter() - started) / len(batch)
            for sample, views, cam in zip(batch, images, maps, strict=True):
                yield sample, views, cam, each


def _views(classifier: AnyClassifier, sample: Sample) -> dict[str, Image]:
    """An image in the window of each member."""
    return {window: read_image(sample.path, window) for window in {member.window for member in classifier.members}}


def _dice_curve(part: StudyImages, sample: Sample, cam: Cam) -> NDArray[np.float64]:
    mask, void = part.truth(sample.name)
    return dice(threshold_counts(known_pixels(quantise(cam), void), known_pixels(mask, void)))


def _average_drop(classifier: AnyClassifier, sample: Sample, views: Mapping[str, Image], cam: Cam) -> float:
    filtered = {window: filter_image(image, cam) for window, image in views.items()}
    full, rest = predict(classifier, [views, filtered])[:, classifier.class_index(own_class(sample))]
    return confidence_drop(float(full), float(rest))
