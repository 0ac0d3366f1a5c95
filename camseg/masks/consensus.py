"""Several maps or masks of one object -> how far they agree, how much each counts, and the map that they stand for.

No true mask is needed: what independent networks agree on is seldom wrong everywhere at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Mask
from camseg.base.errors import InputError


def pairwise_dice(masks: Sequence[Mask]) -> NDArray[np.float64]:
    """Dice of each mask with each other, float64 (K, K), 1 on the diagonal; an empty mask agrees with none.

    For images with an object: two that find nothing there have not found the same.

    ``masks``: bool (H, W), all of one size; InputError otherwise, and for none.
    """
    if not masks or any(mask.shape != masks[0].shape for mask in masks):
        raise InputError(f"expected masks of one size, got {[mask.shape for mask in masks]}")
    areas = np.array([np.count_nonzero(mask) for mask in masks], np.float64)
    table = np.ones((len(masks), len(masks)))
    for first in range(len(masks)):
        for second in range(first):
            total = areas[first] + areas[second]
            common = np.count_nonzero(masks[first] & masks[second])
            table[first, second] = table[second, first] = 2 * common / total if total else 0.0
    return table


def centrality(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each mask agrees with the others: the mean of its ``pairwise_dice`` without itself, (K,); 1 for one."""
    count = len(table)
    if count == 1:
        return np.ones(1)
    result: NDArray[np.float64] = (table.sum(axis=1) - 1.0) / (count - 1)
    return result


def agreement(masks: Sequence[Mask]) -> float:
    """The mean Dice over all pairs of masks, in [0, 1]; 1 for a single one."""
    return float(centrality(pairwise_dice(masks)).mean())


def central_weights(centralities: NDArray[np.float64], shares: Sequence[float], width: float) -> NDArray[np.float64]:
    """How much each of K members counts, (K,) with the sum 1: its share times exp((c - max c) / width).

    A member that is ``width`` less central than the most central one counts 1/e of it; with an infinite width
    centrality decides nothing. The most central one is looked for among those with a share.
    """
    own = np.asarray(shares, np.float64)
    most = centralities[own > 0].max()
    weights = own * np.exp(np.minimum(centralities - most, 0) / width)
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def weighted_mean(cams: Sequence[Cam], weights: NDArray[np.float64]) -> Cam:
    """The mean of maps float32 (H, W), weighted."""
    total = np.zeros(cams[0].shape, np.float32)
    for cam, weight in zip(cams, weights, strict=True):
        total += np.float32(weight) * cam
    return np.minimum(total, 1.0, out=total)  # rounded, weights may sum up to a little more


def weighted_median(cams: Sequence[Cam], weights: NDArray[np.float64]) -> Cam:
    """The value in each pixel with as much weight below it as above; between two of which that holds, their mean."""
    stack = np.stack(cams)  # (K, H, W)
    order = stack.argsort(axis=0)
    values = np.take_along_axis(stack, order, axis=0)
    reached = weights[order].cumsum(axis=0)
    low = (reached >= 0.5 - 1e-9).argmax(axis=0)
    high = (reached > 0.5 + 1e-9).argmax(axis=0)
    pair = [np.take_along_axis(values, place[None], axis=0)[0] for place in (low, high)]
    result: Cam = (pair[0] + pair[1]) / 2
    return result


FUSIONS: Final[Mapping[str, Callable[[Sequence[Cam], NDArray[np.float64]], Cam]]] = {
    "maps": weighted_mean,
    "mean": weighted_mean,
    "median": weighted_median,
    "votes": weighted_mean,
}
"""How members' maps (H, W) in [0, 1], with weights (K,) of the sum 1, become one; of votes the maps are masks."""
