"""Images -> what a frozen backbone makes of them, computed once, so that a head learns in seconds.

The features of an image are those of a few fixed views: as it is, then changed by the ranges of the augmentation. They
do not depend on the seed of a training, so that members of an ensemble share them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from camseg.base.errors import InputError
from camseg.base.progress import Progress
from camseg.base.settings import to_json
from camseg.base.tensors import tensor_bytes
from camseg.classify.classifier import Classifier
from camseg.data.augmentation import augment
from camseg.data.settings import NONE, Augmentation
from camseg.models.weights import head_parameters
from camseg.train.batches import Batches, EpochSampler, LoadedSet, Loader, batched

_MOST = 8 * 2**30
"""Features are kept in memory, up to this many bytes."""


@dataclass
class FeatureCache:
    """Features by backbone, image and view; what is here is not computed again."""

    kept: dict[tuple[str, str, int], Tensor] = field(default_factory=dict)
    """float16 on the CPU, in the shape that the backbone gives one image."""
    size: int = 0
    """Bytes."""

    def add(self, key: tuple[str, str, int], features: Tensor) -> None:
        """Keep the features of one view; raises InputError where memory is not meant to hold more."""
        self.kept[key] = features.to("cpu", torch.float16)
        self.size += self.kept[key].nbytes
        if self.size > _MOST:
            raise InputError(
                f"the features of the first {len(self.kept)} views take {_MOST / 2**30:.0f} GiB, which is all that is "
                "kept of them; lower --feature-views or --image-size, or compute them anew each time: --feature-views 0"
            )


class Head(nn.Module):
    """The part of a network behind its backbone: features -> logits (N, classes)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.model.forward_head(features)  # type: ignore[operator]
        return logits


def check_can_keep(model: nn.Module, trainable: str) -> None:
    """Raise InputError where a network's features cannot be computed once for all epochs."""
    if trainable != "head":
        raise InputError(f"features can be kept while the head learns alone; got --trainable {trainable}, not head")
    if not all(hasattr(model, name) for name in ("forward_features", "forward_head")):
        raise InputError(f"{type(model).__name__} has no features apart from its head; --feature-views 0 keeps none")
    if "sbr" in getattr(model, "heads", ()):
        raise InputError("the head sbr reads the image, not its features alone; --feature-views 0 keeps none")


def keep_features(
    classifier: Classifier,
    images: LoadedSet,
    augmentation: Augmentation,
    views: int,
    cache: FeatureCache,
    batch_size: int,
    progress: Progress,
    title: str,
) -> list[list[Tensor]]:
    """The features of each image's views, in the order of the samples; view 0 is the image as it is."""
    backbone = _backbone(classifier, augmentation)
    wanted = [
        ((backbone, str(sample.path.absolute()), view), index)
        for index, sample in enumerate(images.dataset.samples)
        for view in range(views)
    ]
    missing = [one for one in wanted if one[0] not in cache.kept]
    classifier.model.eval()
    starts = range(0, len(missing), batch_size)
    for start in progress(starts, len(starts), title):
        batch = missing[start : start + batch_size]
        squares = np.stack([_square(classifier, images, index, key[2], augmentation) for key, index in batch])
        with torch.inference_mode():
            inputs = classifier.normalise(torch.from_numpy(squares))
            features: Tensor = classifier.model.forward_features(inputs)  # type: ignore[operator]
        for (key, _), one in zip(batch, features, strict=True):
            cache.add(key, one)
    found = iter(wanted)
    return [[cache.kept[next(found)[0]] for _ in range(views)] for _ in images.dataset.samples]


def feature_loader(
    features: Sequence[Sequence[Tensor]],
    targets: Tensor,
    batches: Batches,
    order: EpochSampler | Sequence[tuple[int, ...]],
) -> Loader:
    """The batches of an order of (epoch, index[, turn]), whose views come in turn: features and targets."""
    return batched(_Kept(features, targets), replace(batches, workers=0), order)  # nothing is left to read


class _Kept(TorchDataset[tuple[Tensor, Tensor]]):
    """(epoch, index[, turn]) -> the features of one view, and the target."""

    def __init__(self, features: Sequence[Sequence[Tensor]], targets: Tensor) -> None:
        self.features, self.targets = features, targets

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        epoch, index, *turn = key
        views = self.features[index]
        return views[(epoch + sum(turn)) % len(views)].float(), self.targets[index]


def _square(
    classifier: Classifier, images: LoadedSet, index: int, view: int, augmentation: Augmentation
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    sample, pixels = images.dataset.samples[index], images.pixels
    square = classifier.preprocessing.read(sample.path) if pixels is None else pixels[index]
    # By name, as the image has another index in each fold.
    start = int.from_bytes(hashlib.sha256(sample.name.encode()).digest()[:8], "big")
    return np.ascontiguousarray(augment(square, augmentation if view else NONE, (start, view)))


def _backbone(classifier: Classifier, augmentation: Augmentation) -> str:
    """Hash of all that decides features: the weights but for the head's, how images are read and changed."""
    head = {id(parameter) for parameter in head_parameters(classifier.model)}
    frozen = {
        name: value.detach().cpu() for name, value in classifier.model.named_parameters() if id(value) not in head
    }
    joined = tuple(f"{name}." for name in getattr(classifier.model, "heads", ()))
    buffers = {f"buffer.{name}": one for name, one in classifier.model.named_buffers() if not name.startswith(joined)}
    reading = [repr(classifier.preprocessing), to_json(augmentation)]
    digest = hashlib.sha256(tensor_bytes({**frozen, **buffers}))
    digest.update(json.dumps(reading, sort_keys=True, default=str).encode())
    return digest.hexdigest()
