"""Facts about masks, and which of them turned out right -> the probability that a mask is right.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999), for the logistic fit; Zadrozny and Elkan,
"Transforming Classifier Scores into Accurate Multiclass Probability Estimates" (KDD 2002), for the isotonic one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from camseg.base.errors import InputError

FEWEST: Final = 10
"""Masks that are known to be right or wrong, from which anything is learnt."""
FEWEST_EACH: Final = 3
"""Of these as many right ones, and as many wrong ones."""
FEWEST_ISOTONIC: Final = 40
"""Fewer would give a curve of a few steps."""
FOLDS: Final = 5
STRENGTH: Final = 1.0
"""Of the logistic fit's penalty on squared weights of standardised facts, the inverse of ``C`` in scikit-learn."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """A fit: facts of a mask -> the probability that it is right."""

    kind: Literal["logistic", "isotonic"]
    """The form of the curve."""
    facts: tuple[str, ...]
    """What it looks at, in the order of its numbers; one fact for an isotonic curve."""
    centre: tuple[float, ...]
    """Their means; what is not known of a mask counts as the mean."""
    spread: tuple[float, ...]
    """Their standard deviations."""
    weights: tuple[float, ...] = ()
    """Of a logistic fit, per standardised fact."""
    intercept: float = 0.0
    """The same."""
    steps: tuple[tuple[float, Annotated[float, Field(ge=0.0, le=1.0)]], ...] = ()
    """Of an isotonic fit: pairs of fact and probability, linear between them."""

    def probabilities(self, facts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of masks (N, facts), NaN where a fact is not known: float64 (N,) in [0, 1]."""
        centre = np.asarray(self.centre)
        known = np.where(np.isnan(facts), centre, facts)
        if self.kind == "isotonic":
            xs, ys = np.array(self.steps).T
            return np.interp(known[:, 0], xs, ys)
        logits = (known - centre) / np.asarray(self.spread) @ np.asarray(self.weights) + self.intercept
        result: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500)))
        return result


@dataclass(frozen=True, kw_only=True)
class TrustFit:
    """The best of several fits, with what it is worth on masks that it did not see."""

    trust: Trust
    """Fitted to all masks."""
    masks: int
    """How many there were."""
    right: int
    """How many of them were right."""
    brier: float
    """Cross-validated: the mean squared difference of probability and outcome."""
    base_brier: float
    """What the share of right ones alone reaches, cross-validated as well."""
    tried: Mapping[str, float]
    """The Brier scores of all fits, by their names."""
    probabilities: tuple[float, ...]
    """Of each mask, by the fit that did not see it."""

    @property
    def explained(self) -> float:
        """The share of the outcomes' variance that is explained, at most 1; not above 0 where nothing is."""
        return 1.0 - self.brier / self.base_brier


def fit_trust(facts: Mapping[str, Sequence[float | None]], right: Sequence[bool], first: str) -> TrustFit:
    """Fit logistic and isotonic curves to one fact, ``first``, and a logistic one to all; take the best by Brier score.

    facts: by name (N,), None where not known; right: which of the N masks are. Scores are cross-validated in ``FOLDS``
    folds with as many right ones in each. Raises InputError for fewer than ``FEWEST`` masks, or ``FEWEST_EACH`` right
    or wrong ones.
    """
    outcome = np.asarray(right, bool)
    least = min(int(outcome.sum()), int((~outcome).sum()))
    if len(outcome) < FEWEST or least < FEWEST_EACH:
        raise InputError(
            f"expected at least {FEWEST} masks that a person looked at, {FEWEST_EACH} of them right and {FEWEST_EACH} "
            f"wrong; got {len(outcome)}, {int(outcome.sum())} of them right; correct more"
        )
    table = {name: np.array([np.nan if one is None else one for one in values]) for name, values in facts.items()}
    # What varies nowhere, or is known of few, tells nothing.
    told = [name for name, values in table.items() if np.isfinite(values).mean() >= 0.5 and np.nanstd(values) > 1e-9]
    if first not in told:
        raise InputError(f"the masks that a person looked at all have the same {first}, or none; nothing can be learnt")
    forms: dict[str, Callable[[NDArray[np.float64], NDArray[np.bool_]], Trust]] = {
        f"logistic in {first}": lambda x, y: _logistic(x, y, (first,)),
    }
    columns = {f"logistic in {first}": [first]}
    if len(told) > 1:
        forms["logistic in all facts"] = lambda x, y: _logistic(x, y, tuple(told))
        columns["logistic in all facts"] = told
    if len(outcome) >= FEWEST_ISOTONIC:
        forms[f"isotonic in {first}"] = lambda x, y: _isotonic(x, y, first)
        columns[f"isotonic in {first}"] = [first]
    folds = _folds(outcome)
    base = np.empty(len(outcome))
    unseen = {name: np.empty(len(outcome)) for name in forms}
    for fold in range(int(folds.max()) + 1):
        test, train = folds == fold, folds != fold
        base[test] = outcome[train].mean()
        for name, fit in forms.items():
            matrix = np.stack([table[one] for one in columns[name]], axis=1)
            unseen[name][test] = fit(matrix[train], outcome[train]).probabilities(matrix[test])
    scores = {name: float(((found - outcome) ** 2).mean()) for name, found in unseen.items()}
    best = min(scores, key=scores.__getitem__)
    matrix = np.stack([table[one] for one in columns[best]], axis=1)
    return TrustFit(
        trust=forms[best](matrix, outcome),
        masks=len(outcome),
        right=int(outcome.sum()),
        brier=scores[best],
        base_brier=float(((base - outcome) ** 2).mean()),
        tried=scores,
        probabilities=tuple(unseen[best].tolist()),
    )


def _folds(outcome: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The fold of each mask (N,): shuffled, with as many right ones in each."""
    random, folds = np.random.default_rng(0), np.empty(len(outcome), np.int64)
    start = 0
    for kind in (True, False):
        places = random.permutation(np.flatnonzero(outcome == kind))
        folds[places] = (start + np.arange(len(places))) % FOLDS
        start += len(places)
    return folds


def _standard(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    centre = np.nan_to_num(np.nanmean(matrix, axis=0))
    filled = np.where(np.isnan(matrix), centre, matrix)
    return filled, centre, np.maximum(filled.std(axis=0), 1e-9)


def _logistic(matrix: NDArray[np.float64], outcome: NDArray[np.bool_], facts: tuple[str, ...]) -> Trust:
    from sklearn.linear_model import LogisticRegression  # here: few wait for its import

    filled, centre, spread = _standard(matrix)
    model = LogisticRegression(C=1 / STRENGTH).fit((filled - centre) / spread, outcome)
    return Trust(
        kind="logistic",
        facts=facts,
        centre=tuple(centre.tolist()),
        spread=tuple(spread.tolist()),
        weights=tuple(model.coef_[0].tolist()),
        intercept=float(model.intercept_[0]),
    )


def _isotonic(matrix: NDArray[np.float64], outcome: NDArray[np.bool_], fact: str) -> Trust:
    from sklearn.isotonic import IsotonicRegression

    filled, centre, spread = _standard(matrix)
    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(filled[:, 0], outcome)
    steps = tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))
    return Trust(
        kind="isotonic", facts=(fact,), centre=tuple(centre.tolist()), spread=tuple(spread.tolist()), steps=steps
    )
