"""Qualities and true Dice -> how well the qualities order masks: what is left to fear if only the best are kept.

El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification" (JMLR 2010); the area as in Geifman,
Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers" (ICLR 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
    """The risk, 1 - Dice, of the masks that are kept, the best first."""

    coverage: NDArray[np.float64]
    """The share of the masks that is kept, from 1/N to 1 (N,)."""
    risk: NDArray[np.float64]
    """The mean of 1 - Dice over these (N,); where qualities are equal, as over all their orders."""
    perfect: NDArray[np.float64]
    """The same if the true Dice ordered them (N,)."""
    spearman: float | None
    """Spearman's correlation of quality and Dice; None where all of either are equal."""

    @property
    def area(self) -> float:
        """Under the curve: the mean risk over all coverages (AURC)."""
        return float(self.risk.mean())

    @property
    def random_area(self) -> float:
        """What a random order is expected to reach."""
        return float(self.risk[-1])

    @property
    def perfect_area(self) -> float:
        """What the order of the true Dice reaches."""
        return float(self.perfect.mean())

    @property
    def gain(self) -> float | None:
        """How far it comes from random (0) to perfect order (1); None where these do not differ."""
        room = self.random_area - self.perfect_area
        return (self.random_area - self.area) / room if room > 1e-9 else None


def risk_coverage(qualities: Sequence[float], dices: Sequence[float]) -> RiskCoverage:
    """How well qualities order masks whose true Dice is known; both (N,), in [0, 1]. Raises InputError for none."""
    quality, risk = np.asarray(qualities, np.float64), 1.0 - np.asarray(dices, np.float64)
    if not len(quality) or quality.shape != risk.shape:
        raise InputError(f"expected as many qualities as Dice values, at least one; got {len(quality)} and {len(risk)}")
    _, groups = np.unique(-quality, return_inverse=True)
    # Of masks of equal quality any may come first: each place in their row has their mean.
    means = np.bincount(groups, risk) / np.bincount(groups)
    count = np.arange(1, len(risk) + 1)
    return RiskCoverage(
        coverage=count / len(risk),
        risk=np.cumsum(means[np.sort(groups)]) / count,
        perfect=np.cumsum(np.sort(risk)) / count,
        spearman=_spearman(quality, -risk),
    )


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    from scipy.stats import rankdata

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
