"""Samples -> batches of augmented input squares, for training and validation.

Everything random follows from seed, epoch, index and turn, so no generator's state has to be kept.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from camseg.base.arrays import Image
from camseg.base.errors import DatasetError, ImageError
from camseg.base.progress import Progress
from camseg.classify.classifier import Classifier
from camseg.data.augmentation import augment
from camseg.data.datasets import Dataset, Sample
from camseg.data.settings import Augmentation
from camseg.train.processes import Processes

_MEMORY = 2**30
"""Resized images of a set are kept in memory up to this many bytes."""
Loader: TypeAlias = DataLoader[tuple[Tensor, Tensor]]
"""Gives batches: uint8 (N, S, S, 3) and their targets, as ``Dataset.targets`` has them."""


@dataclass(frozen=True)
class LoadedSet:
    """A dataset with its pixels, where they fit in memory."""

    dataset: Dataset
    pixels: NDArray[np.uint8] | None
    """(N, S, S, 3) in the order of the samples; None: read each time."""


class _Squares(TorchDataset[tuple[Tensor, Tensor]]):
    """(epoch, index), or (epoch, index, turn) -> the augmented input square, uint8 (S, S, 3), and its target."""

    def __init__(self, classifier: Classifier, images: LoadedSet, augmentation: Augmentation, seed: int) -> None:
        self.preprocessing = classifier.preprocessing  # and no more, as worker processes get a copy
        self.images, self.augmentation, self.seed = images, augmentation, seed
        self.targets = torch.from_numpy(images.dataset.targets(classifier.classes))

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        index, pixels = key[1], self.images.pixels
        square = self.preprocessing.read(self.images.dataset.samples[index].path) if pixels is None else pixels[index]
        square = augment(square, self.augmentation, (self.seed, *key))
        return torch.from_numpy(np.ascontiguousarray(square)), self.targets[index]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How batches are made."""

    size: int
    """Images per batch."""
    seed: int
    """Decides the order, with the epoch, and the augmentation, with epoch, index and turn."""
    workers: int
    """Processes that read and augment; 0 works in the main one."""


class EpochSampler(Sampler[tuple[int, int, int]]):
    """This process's share of a shuffled epoch, as (epoch, index, turn): workers need no other news of the epoch.

    With ``shares`` float64 (count,), which sum to 1, indices are drawn with these probabilities and put back; ``turn``
    counts how often an index has come before, so that each time it is augmented in another way. A last batch of a
    single image is left out, for it would leave batch norm without a spread.
    """

    def __init__(
        self, count: int, batches: Batches, processes: Processes, shares: NDArray[np.float64] | None = None
    ) -> None:
        self.count, self.batches, self.processes, self.shares = count, batches, processes, shares
        self.epoch = 0

    def __len__(self) -> int:
        own = -(-len(self.order()) // self.processes.count)
        lonely = own > self.batches.size and own % self.batches.size == 1
        return own - lonely

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        # Repeated from its start, so that every process takes the same number of steps.
        padded = np.resize(self.order(), len(self) * self.processes.count)
        turns: Counter[int] = Counter()
        for place, index in enumerate(padded.tolist()):
            if place % self.processes.count == self.processes.rank:
                yield self.epoch, index, turns[index]
            turns[index] += 1

    def order(self) -> NDArray[np.int64]:
        """The indices of this epoch, of all processes together."""
        random = np.random.default_rng((self.batches.seed, self.epoch))
        if self.shares is None:
            return random.permutation(self.count)
        return random.choice(self.count, self.count, p=self.shares)


def loader(
    classifier: Classifier,
    images: LoadedSet,
    batches: Batches,
    order: EpochSampler | Sequence[tuple[int, ...]],
    augmentation: Augmentation,
) -> Loader:
    """The batches of an order of (epoch, index[, turn]): uint8 (N, S, S, 3) and their targets."""
    return batched(_Squares(classifier, images, augmentation, batches.seed), batches, order)


def batched(
    items: TorchDataset[Any], batches: Batches, order: EpochSampler | Sequence[tuple[int, ...]]
) -> DataLoader[Any]:
    """The batches of an order of keys: what the items of these keys are, each of their tensors stacked."""
    return DataLoader(
        items,
        batch_size=batches.size,
        sampler=order,
        num_workers=batches.workers,
        persistent_workers=batches.workers > 0,
        generator=torch.Generator(),  # its own: how often it is drawn from depends on the workers
    )


def load_pixels(
    classifier: Classifier, dataset: Dataset, progress: Progress, title: str
) -> tuple[Dataset, NDArray[np.uint8] | None, dict[Path, str]]:
    """Read every image once: the dataset without those that fail, the pixels if they fit, and the failures."""
    side = classifier.image_size
    keep = len(dataset.samples) * side * side * 3 <= _MEMORY

    def read(sample: Sample) -> Image | ImageError | None:
        try:
            square = classifier.preprocessing.read(sample.path)
        except ImageError as error:
            return error
        return square if keep else None

    with ThreadPoolExecutor() as pool:
        results = list(progress(pool.map(read, dataset.samples), len(dataset.samples), title))
    failures = {
        sample.path: str(result)
        for sample, result in zip(dataset.samples, results, strict=True)
        if isinstance(result, ImageError)
    }
    good = [i for i, result in enumerate(results) if not isinstance(result, ImageError)]
    if not good:
        raise DatasetError(f"none of {len(results)} images can be read; the first: {next(iter(failures.values()))}")
    pixels = np.stack([results[i] for i in good]) if keep else None
    samples = tuple(dataset.samples[i] for i in good)
    return replace(dataset, samples=samples), pixels, failures
