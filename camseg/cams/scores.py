"""What is differentiated: of a classifier a class's logit or margin, of a segmenter the logits of some pixels."""

from collections.abc import Sequence
from typing import TypeAlias, get_args

import torch
from torch import Tensor

from camseg.base.errors import InputError
from camseg.cams.settings import PixelScore, Score
from camseg.classify.checkpoint import AnyClassifier
from camseg.classify.classifier import Classifier
from camseg.segment.segmenter import Segmenter

AnyNetwork: TypeAlias = Classifier | Segmenter
"""One network that can be looked into."""
Decider: TypeAlias = AnyClassifier | Segmenter
"""What decides which classes an image shows, and is looked into for where."""


def score_of(network: AnyNetwork, asked: str) -> Score | PixelScore:
    """The score that settings stand for: ``auto`` is the margin where there is a negative class, and ``class`` and
    ``auto`` of a segmenter are ``mean``.

    Raises InputError for a score that only the other kind of network has.
    """
    if isinstance(network, Segmenter):
        known, stands = get_args(PixelScore), {"class": "mean", "auto": "mean"}
    else:
        known, stands = get_args(Score), {"auto": "margin" if network.negative else "class"}
    score: Score | PixelScore = stands.get(asked, asked)  # type: ignore[assignment]
    if score not in known:
        raise InputError(f"a {network.KIND} has no score {asked}; choose among {', '.join(known)}")
    return score


def target_scores(logits: Tensor, targets: Tensor, negatives: Sequence[int] = ()) -> Tensor:
    """The score (N,) of each image's target: its logit, minus the best other class of ``negatives`` if any.

    ``logits`` (N, classes), ``targets`` int64 (N,).
    """
    chosen = logits.gather(1, targets[:, None])[:, 0]  # (N,)
    if not negatives:
        return chosen
    rivals = logits[:, list(negatives)]  # (N, negatives)
    own = torch.tensor(list(negatives), device=logits.device)[None] == targets[:, None]
    best = rivals.masked_fill(own, -torch.inf).amax(dim=1)
    return chosen - torch.where(best.isinf(), torch.zeros_like(best), best)


def pixel_scores(logits: Tensor, channels: Tensor, regions: Tensor | None, *, mean: bool) -> Tensor:
    """The score (N,) of each image's channel: the sum, or the mean, of its logits over a region; 0 for an empty one.

    ``logits`` (N, channels, h, w), ``channels`` int64 (N,), ``regions`` bool (N, h, w), None for all pixels.

    The sum over predicted pixels: Vinogradova, Dibrov and Myers, Towards Interpretable Semantic Segmentation via
    Gradient-Weighted Class Activation Mapping, AAAI 2020, equation 1. The mean over the image: Sarmah et al.
    """
    chosen = logits[torch.arange(len(logits), device=logits.device), channels]  # (N, h, w)
    counted = torch.ones_like(chosen) if regions is None else regions.to(chosen.dtype)
    total = (chosen * counted).sum(dim=(1, 2))
    return total / counted.sum(dim=(1, 2)).clamp_min(1.0) if mean else total


def pixel_regions(
    segmenter: Segmenter, logits: Tensor, targets: Tensor, given: Tensor | None, *, predicted: bool
) -> Tensor | None:
    """Over which pixels a target's logits are scored: bool (N, h, w), or None for all of them.

    ``given``: bool (N, h, w, classes), the pixels that may count; None: all. ``predicted``: of these those that are
    predicted as the target, int64 (N,) indices of classes; ``logits`` (N, channels, h, w) say which.
    """
    rows = torch.arange(len(targets), device=logits.device)
    own = None if given is None else given[rows, ..., targets]
    if not predicted:
        return own
    decided = segmenter.decided(logits.detach())[rows, targets]
    return decided if own is None else decided & own
