"""What ``audit`` found: its tables, and the files that hold them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from camseg.base.files import write_csv, write_json, write_text
from camseg.data.images import write_image
from camseg.measure.figures import plot_scatter
from camseg.studies.settings import AuditSettings
from camseg.studies.tables import Table, as_markdown

FILTERS: Final = {
    "original": "the images as they are",
    "cam": "multiplied by the map of their own class, negatives included",
    "truth": "multiplied by the true mask; images without an object borrow that of another image",
    "inverse": "multiplied by what that mask leaves",
}
"""What the architecture is trained on; the last two need true masks."""
MAP_MEASURES: Final = {
    "insertion": "area under the score while pixels are put into the blurred image, highest of the map first (RISE)",
    "deletion": "area under the score while they are replaced by the mean colour (RISE); less is better",
    "average_drop": "mean share of the score that is lost when the image is multiplied by its map (Grad-CAM++); "
    "less is better",
    "increase": "share of images whose score rises then (Grad-CAM++)",
    "pointing_game": "share of maps whose highest pixel lies in the object or within 15 pixels of it at 224",
}
"""Measures of the maps; the last needs true masks."""
INTERVALS: Final = (
    "Accuracies: mean over the seeds, each with its own split, with Student's t-interval corrected for splits that "
    "overlap (Nadeau and Bengio 2003). Maps: mean over images with the percentile bootstrap's, whole groups drawn "
    "where DATA gives them. Both 95 %."
)
CHOICE: Final = (
    "Each training keeps its best epoch, chosen by macro-F1 on the validation images that its accuracy is of: all four "
    "accuracies are somewhat too high."
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    """In [0, 1]."""
    low: float | None = None
    """The interval's ends; None where one value, or equal ones, allow none."""
    high: float | None = None
    """See ``low``."""
    count: int = 1
    """Trainings or images behind it."""

    @property
    def spread(self) -> tuple[float, float, float]:
        """The mean and the interval's ends, which are the mean itself where there are none."""
        return self.mean, *((self.mean, self.mean) if self.low is None or self.high is None else (self.low, self.high))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.low is None else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class RunAudit:
    """What was found of one run."""

    name: str
    """The folder's last name, or as many of them as tell the runs apart."""
    run: str
    """The folder."""
    arch: str
    """The architecture."""
    accuracies: dict[str, Estimate]
    """By filter: the validation accuracy of the networks trained again, each of its best epoch there."""
    by_seed: dict[str, tuple[float, ...]]
    """The accuracies behind them."""
    mean_dice: Estimate | None
    """Of the maps, over the images with an object; None without masks."""
    measures: dict[str, Estimate]
    """By measure; the maps of each image's own class on the validation images of the first split."""
    black: int
    """Images whose map is all zero, so that they were filtered to black."""
    acquainted: str | None
    """A sentence on how far it had met the images that its maps are measured on; None where it had not."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What ``audit_runs`` found."""

    data: str
    """The images."""
    images: int
    """How many there are."""
    masks: str | None
    """The folder of true masks."""
    majority: float
    """Share of the most frequent class: the accuracy of one who sees nothing."""
    settings: AuditSettings
    """How it was found."""
    runs: tuple[RunAudit, ...]
    """In the order of the call."""

    @property
    def note(self) -> str:
        """What a reader of the tables must know."""
        chance = f"The most frequent class is {self.majority:.3f} of the images."
        black = [f"{run.black} maps of {run.name} are all zero: filtered to black." for run in self.runs if run.black]
        acquainted = [run.acquainted for run in self.runs if run.acquainted]
        return " ".join((INTERVALS, CHOICE, chance, *black, *acquainted))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready dicts and lists, with what the names in it mean."""
        return {**asdict(self), "filters": FILTERS, "measures": MAP_MEASURES, "intervals": INTERVALS, "choice": CHOICE}

    def accuracy_table(self) -> Table:
        """Columns, and a row of strings per run: the validation accuracies and the mean-Dice of the maps."""
        rows = [
            (
                run.name,
                *(str(run.accuracies[name]) if name in run.accuracies else "-" for name in FILTERS),
                str(run.mean_dice or "-"),
            )
            for run in self.runs
        ]
        return ("run", *FILTERS, "mean-Dice of the maps"), rows

    def measure_table(self) -> Table:
        """Columns, and a row of strings per run: the measures of the maps."""
        rows = [
            (run.name, *(str(run.measures[name]) if name in run.measures else "-" for name in MAP_MEASURES))
            for run in self.runs
        ]
        return ("run", *(name.replace("_", " ") for name in MAP_MEASURES)), rows


def write_audit(out: Path, found: Audit) -> None:
    """Write ``audit.json``, ``.csv`` with a line per run and number, ``.md`` and, with masks, ``.png``."""
    write_json(out / "audit.json", found.to_dict())
    rows = []
    for run in found.runs:
        numbers = {f"accuracy {kind}": value for kind, value in run.accuracies.items()} | run.measures
        if run.mean_dice is not None:
            numbers["mean_dice"] = run.mean_dice
        rows += [(run.name, run.arch, name, one.mean, one.low, one.high, one.count) for name, one in numbers.items()]
    write_csv(out / "audit.csv", ("run", "architecture", "measure", "mean", "low", "high", "count"), rows)
    tables = (as_markdown(found.accuracy_table()), as_markdown(found.measure_table()))
    write_text(out / "audit.md", "\n".join((*tables, found.note)) + "\n")
    points = {
        run.name: (run.mean_dice.spread, run.accuracies["cam"].spread)
        for run in found.runs
        if run.mean_dice is not None
    }
    if points:
        labels = {"xlabel": "mean-Dice of the maps", "ylabel": "accuracy on CAM-filtered images"}
        write_image(out / "audit.png", plot_scatter(points, **labels))
