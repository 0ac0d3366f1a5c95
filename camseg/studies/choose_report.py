"""What ``choose`` found: its table, and how ranks and the veto follow from the scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.studies.tables import Table

VETO: Final = 0.15
"""How far a run's insertion minus deletion may lie below the median of the others' before it is vetoed."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run under one setting, with what was found without any true mask."""

    run: str
    """The run's folder, as it was named."""
    propagation: str
    """How its maps were spread."""
    threshold: str
    """Where they were cut."""
    agreement: float
    """Mean Dice with the other runs' masks, over the images with an object."""
    planted: Mapping[str, float]
    """By generator the mean Dice with planted objects; empty where nothing could be planted."""
    planted_rank: float | None
    """The mean of its ranks over the generators, 1 is best; None where nothing was planted."""
    rank: float
    """The mean of its rank by agreement and of ``planted_rank``, or the first alone; 1 is best."""
    faithfulness: float
    """The run's mean insertion minus deletion, which takes no part in ranks."""
    vetoed: bool
    """Whether that is far below the other runs'."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What ``choose_runs`` found."""

    images: str
    """The images' source."""
    positives: tuple[tuple[str, str], ...]
    """The images with an object that were looked at, by name, and toward which class."""
    negatives: tuple[str, ...]
    """Those without one into which objects were planted."""
    candidates: tuple[Candidate, ...]
    """The best first, by rank; of equal ranks the one whose agreement is higher."""
    notes: tuple[str, ...]
    """What a reader of the table must know."""
    failed: tuple[str, ...] = ()
    """Of images that could not be read, the reason."""

    @property
    def best(self) -> Candidate:
        """The first that is not vetoed."""
        return next((one for one in self.candidates if not one.vetoed), self.candidates[0])

    def label(self, one: Candidate) -> str:
        """What a candidate is called: its run, and the settings that are not the same for all."""
        several = [
            name for name in ("propagation", "threshold") if len({getattr(each, name) for each in self.candidates}) > 1
        ]
        return ", ".join([one.run, *(getattr(one, name) for name in several)])

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready dicts and lists, and the best one."""
        found: dict[str, Any] = json.loads(json.dumps({**asdict(self), "best": asdict(self.best)}))
        return found

    def table(self) -> Table:
        """Columns, and a row of strings per candidate."""
        generators = list(self.candidates[0].planted)
        rows = [
            (
                self.label(one),
                f"{one.agreement:.3f}",
                *(f"{one.planted[name]:.3f}" for name in generators),
                *([] if one.planted_rank is None else [f"{one.planted_rank:.2f}"]),
                f"{one.rank:.2f}",
                f"{one.faithfulness:.3f}",
                "veto" if one.vetoed else "",
            )
            for one in self.candidates
        ]
        planted = [*generators, "planted rank"] if generators else []
        return ("run", "agreement", *planted, "mean rank", "insertion - deletion", "veto"), rows


def vetoes(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which runs' maps are far less faithful than the others': insertion minus deletion (runs, images) -> (runs,).

    Image by image a run's score is taken from the median of the others'. It is vetoed where the mean of that is above
    ``VETO``, and above two of its standard errors, so that no single image vetoes a run.
    """
    found = []
    for own in range(len(scores)):
        short = np.median(np.delete(scores, own, axis=0), axis=0) - scores[own]
        error = short.std(ddof=1) / np.sqrt(len(short)) if len(short) > 1 else 0.0
        found.append(short.mean() > max(VETO, 2 * error))
    return np.array(found)


def ranks(scores: Sequence[float]) -> NDArray[np.float64]:
    """1 for the highest score, and so on; equal ones share the mean of their ranks."""
    from scipy.stats import rankdata

    # In six digits: what differs by rounding alone is equal.
    return np.asarray(rankdata(-np.round(np.asarray(scores, np.float64), 6)), np.float64)
