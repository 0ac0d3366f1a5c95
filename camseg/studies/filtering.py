"""Images multiplied by a run's maps or by true masks, and what those maps are worth."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Image, Mask
from camseg.base.progress import Progress
from camseg.cams.compute import compute_cams
from camseg.classify.classifier import Classifier
from camseg.data.datasets import Dataset, Sample
from camseg.data.images import read_image, write_image
from camseg.measure.faithfulness import (
    confidence_drop,
    confidence_rises,
    confidences,
    deletion_curve,
    filter_image,
    insertion_curve,
    pointing_hit,
)
from camseg.measure.metrics import known_pixels, mean_dice
from camseg.studies.material import StudyImages, in_batches, own_class
from camseg.studies.settings import AuditSettings


def filter_by_maps(
    classifier: Classifier, images: StudyImages, settings: AuditSettings, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write the images multiplied by their maps into ``folder/cam``; say how the maps fit the true masks.

    Returns ``mean_dice`` and ``pointing_game`` by the names of the images with an object, and ``black``, how many maps
    are all zero.
    """
    dices: dict[str, float] = {}
    hits: dict[str, float] = {}
    black = 0
    for batch in in_batches(images.data.samples, settings.batch_size, progress, "maps"):
        pixels = [read_image(sample.path, classifier.window) for sample in batch]
        for sample, image, cam in zip(batch, pixels, _own_maps(classifier, settings, batch, pixels), strict=True):
            black += not cam.any()
            write_image(folder / f"cam/{sample.name}.png", filter_image(image, cam))
            if sample.name in images.masks:
                mask, void = images.truth(sample.name)
                dices[sample.name] = mean_dice(known_pixels(cam, void), known_pixels(mask, void))
                hits[sample.name] = float(pointing_hit(np.where(void, np.float32(0), cam), mask))
    return {"mean_dice": dices, "pointing_game": hits, "black": black}


def filter_by_masks(
    classifier: Classifier, images: StudyImages, splits: Mapping[int, tuple[Dataset, Dataset]], folder: Path
) -> None:
    """Write the images multiplied by true masks, and by what these leave, for each seed of ``splits``.

    They lie in ``folder/truth-SEED`` and ``folder/inverse-SEED``. An image without an object borrows the mask of
    another one, by chance, on the same side of the split. Pixels without a class are in neither.
    """
    for seed, parts in splits.items():
        for side, part in enumerate(parts):
            random, lenders = np.random.default_rng((seed, side)), images.lenders(part)
            for sample in part.samples:
                image = read_image(sample.path, classifier.window)
                owner = sample.name if sample.name in images.masks else lenders[random.integers(len(lenders))]
                mask, void = (_fitted(pixels, image) for pixels in images.truth(owner))
                for kind, weights in (("truth", mask), ("inverse", ~(mask | void))):
                    write_image(folder / f"{kind}-{seed}/{sample.name}.png", filter_image(image, weights))


def measure_maps(
    classifier: Classifier, images: Dataset, settings: AuditSettings, progress: Progress
) -> dict[str, dict[str, float]]:
    """The measures that need no mask, each by the images' names, of the images as the network sees them."""
    found: dict[str, dict[str, float]] = {name: {} for name in ("insertion", "deletion", "average_drop", "increase")}
    size, steps = settings.batch_size, settings.steps
    for sample in progress(images.samples, len(images.samples), "measures"):
        square = classifier.to_input(read_image(sample.path, classifier.window))
        cam = _own_maps(classifier, settings, [sample], [square])[0]
        score = partial(_scores, classifier, classifier.class_index(own_class(sample)))
        mean = 255 * np.asarray(classifier.mean)
        deletion = deletion_curve(score, square, cam, baseline=mean, steps=steps, batch_size=size)
        pair = confidences(score, square, cam)
        found["insertion"][sample.name] = insertion_curve(score, square, cam, steps=steps, batch_size=size).area
        found["deletion"][sample.name] = deletion.area
        found["average_drop"][sample.name] = confidence_drop(*pair)
        found["increase"][sample.name] = float(confidence_rises(*pair))
    return found


def _own_maps(
    classifier: Classifier, settings: AuditSettings, samples: Sequence[Sample], images: Sequence[Image]
) -> list[Cam]:
    """The ungated map of each image's own class."""
    targets = [own_class(sample) for sample in samples]
    return compute_cams(classifier, images, targets, (settings.method,), gate=False)[settings.method]


def _fitted(mask: Mask, image: Image) -> Mask:
    """A mask brought to the size of another image by the nearest pixels."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(image.shape, mask.shape, strict=False))
    fitted: Mask = mask[np.ix_(rows, columns)]
    return fitted


def _scores(classifier: Classifier, target: int, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits = classifier.model(classifier.normalise(torch.from_numpy(images)))
    scores: NDArray[np.float32] = classifier.probabilities(logits)[:, target].cpu().numpy()
    return scores
