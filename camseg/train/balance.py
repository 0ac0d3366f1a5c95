"""How rare classes come to count as much as frequent ones: weights of the loss, or how often images are drawn."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camseg.classify.classifier import Classifier


def class_weights(targets: NDArray[Any], classifier: Classifier) -> Tensor:
    """Per class: single-label N / (classes * count), multi-label absent / present within 1/10 to 10."""
    if classifier.multi_label:
        present = targets.sum(axis=0)
        return torch.from_numpy(np.clip((len(targets) - present) / np.maximum(present, 1), 0.1, 10.0)).float()
    counts = np.bincount(targets, minlength=len(classifier.classes))
    return torch.from_numpy(len(targets) / (len(classifier.classes) * np.maximum(counts, 1))).float()


def sampling_shares(targets: NDArray[Any]) -> NDArray[np.float64]:
    """How often each image is drawn, as shares of 1: in proportion to 1 / count of its rarest label.

    Single-label classes then come up equally often; in multi-label sets "none of the classes" counts as a label.
    """
    if targets.ndim == 1:
        labels = targets[:, None] == np.arange(targets.max() + 1)
    else:
        labels = np.concatenate((targets > 0, ~(targets > 0).any(axis=1, keepdims=True)), axis=1)
    rarity = (labels / np.maximum(labels.sum(axis=0), 1)).max(axis=1)
    shares: NDArray[np.float64] = rarity / rarity.sum()
    return shares
