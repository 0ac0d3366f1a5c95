"""Logits and targets of segmentation networks -> a loss; its parts are those of segmentation_models_pytorch."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from camseg.base.extras import require
from camseg.data.truth import IGNORED
from camseg.models.library import timm
from camseg.train.registry import LOSSES

_READY: Final = timm  # imported first: with it comes what the library's own imports need


class Criterion:
    """The sum of named losses, each the mean over images (and independent classes) by how much these count.

    An image is taken by itself, so that each counts by its own weight and large objects do not hide small ones. Of
    Dice and its kind an image without the object says nothing: only the cross-entropy speaks there.
    """

    def __init__(self, terms: Sequence[str], multi_label: bool, balance: Tensor | None = None) -> None:
        self.multi_label = multi_label
        self.modules: list[nn.Module] = [LOSSES[name].load()(multi_label) for name in terms]
        self.balance = balance

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The loss, a scalar.

        logits: float32 (N, channels, h, w); targets: uint8 (N, h, w, K) as ``Truth.target``; weights: (N, K).
        """
        total = logits.new_zeros(())
        for own, target, weight in zip(logits, targets, weights, strict=True):
            if not bool((target != IGNORED).any()):
                total = total + 0.0 * own.sum()  # nothing to learn here, but a gradient all the same
            elif self.multi_label:
                truth = target.permute(2, 0, 1)  # (K, h, w)
                if bool((weight == weight[0]).all()):
                    total = total + weight[0] * self._one(own[None], truth[None], self.balance)
                else:
                    parts = [self._channel(own, truth, k) for k in range(len(truth))]
                    total = total + (weight * torch.stack(parts)).mean()
            else:
                total = total + weight[0] * self._one(own[None], target[None, ..., 0], self.balance)
        return total / len(logits)

    def _channel(self, own: Tensor, truth: Tensor, k: int) -> Tensor:
        """The loss of one of an image's classes; own and truth: (K, h, w)."""
        if not bool((truth[k] != IGNORED).any()):
            return 0.0 * own[k].sum()
        balance = None if self.balance is None else self.balance[k : k + 1]
        return self._one(own[None, k : k + 1], truth[None, k : k + 1], balance)

    def _one(self, logits: Tensor, target: Tensor, balance: Tensor | None) -> Tensor:
        number = target.float() if self.multi_label else target.long()
        losses = (
            module(logits, number, balance) if isinstance(module, _CrossEntropy) else module(logits, number)
            for module in self.modules
        )
        return torch.stack([*losses]).sum()


class _CrossEntropy(nn.Module):
    """The mean over all pixels; those that are ignored add nothing."""

    def __init__(self, multi_label: bool) -> None:
        super().__init__()
        self.multi_label = multi_label

    def forward(self, logits: Tensor, target: Tensor, balance: Tensor | None = None) -> Tensor:
        """``balance``: weights of the object against the rest, (C,), or of the background and the classes, (1 + C,)."""
        if not self.multi_label:
            losses = functional.cross_entropy(logits, target, weight=balance, ignore_index=IGNORED, reduction="none")
            return losses.mean()
        weight = None if balance is None else balance[:, None, None]
        module = _losses().SoftBCEWithLogitsLoss(ignore_index=IGNORED, pos_weight=weight)
        loss: Tensor = module(logits, target)
        return loss


def cross_entropy(multi_label: bool) -> nn.Module:
    """Of sigmoids, or of the softmax."""
    return _CrossEntropy(multi_label)


def dice(multi_label: bool) -> nn.Module:
    """1 - Dice of the probabilities."""
    module: nn.Module = _losses().DiceLoss(_mode(multi_label), ignore_index=IGNORED)
    return module


def focal(multi_label: bool) -> nn.Module:
    """The cross-entropy, in which pixels that are right already count less."""
    module: nn.Module = _losses().FocalLoss(_joint(multi_label), ignore_index=IGNORED)
    return module


def tversky(multi_label: bool) -> nn.Module:
    """Dice with misses dearer than false alarms."""
    module: nn.Module = _losses().TverskyLoss(_mode(multi_label), ignore_index=IGNORED, alpha=0.3, beta=0.7)
    return module


def lovasz(multi_label: bool) -> nn.Module:
    """A convex extension of 1 - IoU."""
    module: nn.Module = _losses().LovaszLoss(_joint(multi_label), ignore_index=IGNORED)
    return module


class _Jaccard(nn.Module):
    """The library's, which has no ignored pixels: these get the truth as their prediction, which costs nothing."""

    def __init__(self, multi_label: bool) -> None:
        super().__init__()
        self.multi_label = multi_label
        self.inner = _losses().JaccardLoss(_mode(multi_label), from_logits=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        known = target != IGNORED
        if self.multi_label:
            loss: Tensor = self.inner(logits.sigmoid() * known, target * known)
            return loss
        sure = torch.zeros_like(logits)
        sure[:, 0] = 1.0
        probabilities = torch.where(known[:, None], logits.softmax(dim=1), sure)
        found: Tensor = self.inner(probabilities, target * known)
        return found


def jaccard(multi_label: bool) -> nn.Module:
    """1 - IoU of the probabilities."""
    return _Jaccard(multi_label)


def _mode(multi_label: bool) -> str:
    return "multilabel" if multi_label else "multiclass"


def _joint(multi_label: bool) -> str:
    """For losses that take independent classes' pixels together."""
    return "binary" if multi_label else "multiclass"


def _losses() -> Any:
    return require("segmentation_models_pytorch", "seg", "a loss of segmentation networks").losses
