"""Early learning: how far a network's answers fit the masks that it learns from, when that bends, and what follows.

Networks learn what is right in wrong masks first, and memorise what is wrong later. Where the fit to the masks stops
rising steeply is the time to trust the network more than the masks. Liu et al., Adaptive Early-Learning Correction for
Segmentation from Noisy Annotations (ADELE), CVPR 2022.
"""

import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camseg.data.truth import IGNORED

_FEWEST: Final = 4
"""Epochs that a curve of three parameters is fitted to, at least."""
_LEARNED: Final = 0.01
"""A fit below this is none yet."""


def bent(fits: Sequence[float], fall: float) -> int | None:
    """The first epoch, from 1, at whose end a rising curve has lost more than ``fall`` of its first slope, or None.

    ``fits``: one value per epoch, in [0, 1]. The curve is f(t) = a (1 - exp(-b t^c)), fitted to what has been by least
    squares, and its slope that of the fit. Liu et al., equations 3 and 4.
    """
    for epoch in range(_FEWEST, len(fits) + 1):
        if _fallen(np.asarray(fits[:epoch], np.float64)) > fall:
            return epoch
    return None


def _fallen(values: NDArray[np.float64]) -> float:
    """How much of its slope at the first epoch a curve fitted to ``values`` has lost at the last; 0 where none fits."""
    from scipy.optimize import OptimizeWarning, curve_fit

    def curve(t: NDArray[np.float64], a: float, b: float, c: float) -> NDArray[np.float64]:
        return a * (1.0 - np.exp(-b * t**c))

    if values.max() < _LEARNED:
        return 0.0
    t = np.arange(1, len(values) + 1, dtype=np.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            (a, b, c), _ = curve_fit(curve, t, values, p0=(0.5, 0.5, 1.0), bounds=((0, 0, 0), (1, 10, 5)), maxfev=2000)
    except (RuntimeError, ValueError, OptimizeWarning):
        return 0.0
    slopes = a * b * c * t ** (c - 1.0) * np.exp(-b * t**c)
    return float((slopes[0] - slopes[-1]) / slopes[0]) if slopes[0] > 0.0 else 0.0


class FitTally:
    """Adds up, class by class, how far answers fit what is taught: the pixels of both, and of either."""

    def __init__(self, classes: int, multi_label: bool) -> None:
        self.multi_label = multi_label
        self.both, self.either = np.zeros(classes), np.zeros(classes)

    def add(self, found: Tensor, targets: Tensor, certain: Tensor) -> None:
        """Count a batch: what pixels are predicted as, bool (N, classes, h, w), targets uint8 (N, h, w, K) as in
        ``Truth``, and bool (N, K): what is certain does not count, and what is ignored neither."""
        taught = _taught(targets, len(self.both), self.multi_label)
        counted = (targets != IGNORED).movedim(3, 1) & ~certain[..., None, None]  # (N, K, h, w)
        self.both += (found & taught & counted).sum(dim=(0, 2, 3)).cpu().numpy()
        self.either += ((found | taught) & counted).sum(dim=(0, 2, 3)).cpu().numpy()


def _taught(targets: Tensor, classes: int, multi_label: bool) -> Tensor:
    """What pixels are taught as, bool (N, classes, h, w)."""
    if multi_label:
        return targets.movedim(3, 1) == 1
    return targets[..., 0][:, None] == torch.arange(1, classes + 1, device=targets.device).view(1, -1, 1, 1)


def corrected(
    targets: Tensor, logits: Tensor, certain: Tensor, classes: Sequence[bool], above: float, multi_label: bool
) -> Tensor:
    """What is taught, with what the network is sure of in its place: uint8 (N, h, w, K).

    targets: as it was; logits: (N, channels, h, w) of the network that is trusted; certain: bool (N, K), what comes
    from people and stays; classes: whether the fit of each has bent: only pixels between these, or these and the
    background, change; above: the least probability of a sure answer. What is ignored stays ignored. Liu et al.,
    section 3.3, where masks are corrected once and not anew in each batch.
    """
    known = (targets != IGNORED) & ~certain[:, None, None, :]
    if multi_label:
        p = logits.sigmoid().movedim(1, 3)  # (N, h, w, K)
        answer, sure = (p > 0.5).to(targets.dtype), torch.maximum(p, 1.0 - p) > above
        changes = sure & torch.tensor(list(classes), device=targets.device)
    else:
        top, number = logits.softmax(dim=1).max(dim=1)  # (N, h, w)
        answer, sure = number[..., None].to(targets.dtype), (top > above)[..., None]
        allowed = torch.tensor([True, *classes], device=targets.device)
        taught = torch.where(targets == IGNORED, targets.new_zeros(()), targets)
        changes = sure & allowed[taught.long()] & allowed[answer.long()]
    return torch.where(known & changes, answer, targets)
