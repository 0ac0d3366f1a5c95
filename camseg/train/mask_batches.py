"""Images with masks -> batches of augmented squares, targets and weights; as ``batches``, with pixels for labels."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from camseg.base.arrays import Image
from camseg.base.errors import DatasetError, ImageError
from camseg.base.progress import Progress
from camseg.classify.preprocessing import Preprocessing
from camseg.data.augmentation import augment_both, recolor
from camseg.data.datasets import Dataset, Sample
from camseg.data.images import read_image
from camseg.data.settings import Augmentation
from camseg.data.truth import IGNORED, MaskSource, Truth
from camseg.train.batches import Batches, EpochSampler, batched
from camseg.train.processes import Processes

_MEMORY = 2**30
"""Resized images and targets of a set are kept in memory up to this many bytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedSet:
    """Images, and where their masks come from."""

    data: Dataset
    """The images."""
    masks: MaskSource
    """Knows all of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedMasks:
    """A masked set with its pixels, where they fit in memory."""

    images: MaskedSet
    pixels: NDArray[np.uint8] | None
    """(N, S, S, 3) in the order of the samples; None: read each time."""
    targets: NDArray[np.uint8] | None
    """(N, S, S, K), as ``Truth.target``."""
    weights: NDArray[np.float32]
    """(N, K), as ``Truth.weights``."""
    certain: NDArray[np.bool_]
    """(N, K), as ``Truth.certain``."""
    shown: NDArray[np.int64]
    """(N, classes): how many pixels of the input each class has."""
    known: NDArray[np.int64]
    """(N,): of how many pixels of the input something is known; of several channels the most."""
    sha256: str
    """Over targets, weights and what is certain."""


def square_target(target: NDArray[np.uint8], preprocessing: Preprocessing, multi_label: bool) -> NDArray[np.uint8]:
    """A target (H, W, K) at the place and size of the network's square input, (S, S, K).

    Shrunk, a pixel takes what most of its area shows; what lies beside the image is ignored.
    """
    height, width, channels = target.shape
    side = preprocessing.image_size
    top, left, tall, wide = (round(share * side) for share in preprocessing.content_box(height, width))
    square = np.full((side, side, channels), IGNORED, np.uint8)
    content = square[top : top + max(1, tall), left : left + max(1, wide)]
    size = content.shape[:2]
    for channel in range(channels):
        numbers = target[..., channel]
        present = np.unique(numbers)
        shares = np.stack([_share(numbers == number, *size) for number in present])  # (numbers, h, w)
        if multi_label and IGNORED in present and len(present) > 1:
            # Ignored where most is; else what is known decides, however much of it is ignored.
            shares[-1] = np.where(shares[-1] > 0.5, 2.0, -1.0)
        content[..., channel] = present[shares.argmax(axis=0)]
    return square


def _share(region: NDArray[np.bool_], height: int, width: int) -> NDArray[np.float32]:
    values = region.astype(np.float32)
    smaller = min(width, values.shape[1]), min(height, values.shape[0])
    for size, way in ((smaller, cv2.INTER_AREA), ((width, height), cv2.INTER_LINEAR)):
        if size != values.shape[1::-1]:
            values = np.asarray(cv2.resize(values, size, interpolation=way), np.float32)
    return values


def read_both(masks: MaskSource, sample: Sample, preprocessing: Preprocessing) -> tuple[Image, Truth]:
    """The square input of an image, and what is known of its pixels; ImageError as the readers raise it."""
    image = read_image(sample.path, preprocessing.window)
    truth = masks.read(sample, *image.shape[:2])
    square = replace(truth, target=square_target(truth.target, preprocessing, masks.multi_label))
    return preprocessing.to_input(image), square


@dataclass(frozen=True, kw_only=True, eq=False)
class _Loaded:
    """What one image gives: its pixels and target where they are kept, and what is told of them in any case."""

    square: Image | None
    target: NDArray[np.uint8] | None
    weights: NDArray[np.float32]
    certain: NDArray[np.bool_]
    shown: NDArray[np.int64]
    known: int
    digest: bytes


def load_masks(
    images: MaskedSet, preprocessing: Preprocessing, progress: Progress, title: str
) -> tuple[LoadedMasks, dict[Path, str]]:
    """Read every image and its masks once: the set without those that fail, its pixels if they fit, and the failures.

    Raises DatasetError where none can be read.
    """
    samples, masks = images.data.samples, images.masks
    classes, channels = len(masks.classes), len(masks.classes) if masks.multi_label else 1
    side = preprocessing.image_size
    keep = len(samples) * side * side * (3 + channels) <= _MEMORY

    def read(sample: Sample) -> _Loaded | ImageError:
        try:
            square, truth = read_both(masks, sample, preprocessing)
        except ImageError as error:
            return error
        target, weights, certain = truth.target, truth.weights, truth.certain
        digest = hashlib.sha256(target.tobytes() + weights.tobytes() + certain.tobytes()).digest()
        return _Loaded(
            square=square if keep else None,
            target=target if keep else None,
            weights=weights,
            certain=certain,
            shown=_shown(target, classes, masks.multi_label),
            known=_known(target),
            digest=digest,
        )

    with ThreadPoolExecutor() as pool:
        results = list(progress(pool.map(read, samples), len(samples), title))
    pairs = list(zip(samples, results, strict=True))
    failures = {sample.path: str(found) for sample, found in pairs if isinstance(found, ImageError)}
    good = [(sample, found) for sample, found in pairs if not isinstance(found, ImageError)]
    if not good:
        first = next(iter(failures.values()))
        raise DatasetError(f"none of {len(results)} images and masks can be read; the first: {first}")
    loaded = LoadedMasks(
        images=replace(images, data=replace(images.data, samples=tuple(sample for sample, _ in good))),
        pixels=np.stack([one.square for _, one in good if one.square is not None]) if keep else None,
        targets=np.stack([one.target for _, one in good if one.target is not None]) if keep else None,
        weights=np.stack([one.weights for _, one in good]),
        certain=np.stack([one.certain for _, one in good]),
        shown=np.stack([one.shown for _, one in good]),
        known=np.array([one.known for _, one in good]),
        sha256=hashlib.sha256(b"".join(one.digest for _, one in good)).hexdigest(),
    )
    return loaded, failures


def _shown(target: NDArray[np.uint8], classes: int, multi_label: bool) -> NDArray[np.int64]:
    if multi_label:
        return np.count_nonzero(target == 1, axis=(0, 1))
    return np.array([np.count_nonzero(target == number) for number in range(1, classes + 1)])


def _known(target: NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(target != IGNORED, axis=(0, 1)).max())


class _MaskedSquares(TorchDataset[tuple[Tensor, ...]]):
    """(epoch, index[, turn]) -> the augmented square, its target, its weights, what is certain, and on request the
    square recoloured."""

    def __init__(
        self,
        images: LoadedMasks,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        seed: int,
        recolored: bool,
    ) -> None:
        self.images, self.preprocessing, self.augmentation = images, preprocessing, augmentation
        self.seed, self.recolored = seed, recolored

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, ...]:
        index, own = key[1], self.images
        sample, masks = own.images.data.samples[index], own.images.masks
        if own.pixels is None or own.targets is None:
            square, truth = read_both(masks, sample, self.preprocessing)
            target = truth.target
        else:
            square, target = own.pixels[index], own.targets[index]
        square, target = augment_both(square, target, self.augmentation, (self.seed, *key), IGNORED)
        arrays = [square, target, own.weights[index], own.certain[index]]
        if self.recolored:
            arrays.append(recolor(square, (self.seed, 1, *key)))
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def mask_loader(
    images: LoadedMasks,
    preprocessing: Preprocessing,
    batches: Batches,
    order: EpochSampler | Sequence[tuple[int, ...]],
    augmentation: Augmentation,
    recolored: bool = False,
) -> DataLoader[Any]:
    """The batches of an order of (epoch, index[, turn]): uint8 (N, S, S, 3), targets (N, S, S, K), weights (N, K), what
    is certain (N, K).

    ``recolored``: and the same images with other colours, uint8 (N, S, S, 3).
    """
    return batched(_MaskedSquares(images, preprocessing, augmentation, batches.seed, recolored), batches, order)


class TrustedSampler(EpochSampler):
    """An epoch's order, that of the first epochs of the better-trusted images alone."""

    def __init__(
        self,
        count: int,
        batches: Batches,
        processes: Processes,
        shares: NDArray[np.float64] | None,
        trusted: NDArray[np.int64],
        epochs: int,
    ) -> None:
        super().__init__(count, batches, processes, shares)
        self.trusted, self.epochs = trusted, epochs

    def order(self) -> NDArray[np.int64]:
        """As ``EpochSampler.order``; in the first epochs the trusted images'."""
        if self.epoch >= self.epochs:
            return super().order()
        return np.random.default_rng((self.batches.seed, self.epoch)).permutation(self.trusted)
