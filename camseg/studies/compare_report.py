"""What ``compare`` found: its tables, and the files that hold them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.files import write_csv, write_json, write_text
from camseg.data.images import write_image
from camseg.measure.figures import plot_heat_map
from camseg.studies.tables import Table, as_markdown


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """A classifier on the test images."""

    name: str
    """The architecture, or the run's folder."""
    start: str
    """``scratch``, ``imagenet`` or the weights file, of what was trained here; ``run`` of what was loaded."""
    parameters: int
    """Of all networks that decide."""
    accuracy: float
    """In [0, 1]."""
    macro_f1: float
    """In [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A classifier and a CAM method on the test images."""

    model: str
    """The name of the classifier."""
    method: str
    """The name of the method."""
    images: int
    """Test images behind the means: those with an object, or without masks some that may hold one."""
    mean_dice: float | None
    """Mean per image; this and the following are None without masks."""
    interval: tuple[float, float] | None
    """Its 95 % bootstrap interval, whole groups drawn where the data give them."""
    dice: float | None
    """Mean per image at the threshold that is best on the validation images' masks."""
    level: int | None
    """That threshold: above this of 255."""
    average_drop: float | None
    """Mean share of the score that is lost when the image is multiplied by its map; None with masks."""
    seconds: float
    """Per image, from the file to its map."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What ``compare_models`` found."""

    data: str
    """The images for training and validation."""
    test: str
    """The test images' source."""
    images: dict[str, int]
    """How many there are for ``train``, ``val`` and ``test``."""
    masks: bool
    """Whether true masks judge the maps."""
    models: tuple[ModelScores, ...]
    """In the order of the call."""
    cells: tuple[Cell, ...]
    """By model, then method, in the order of the call."""
    notes: tuple[str, ...]
    """What a reader of the tables must know."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready dicts and lists."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @property
    def measure(self) -> str:
        """What the models x methods table holds."""
        return "mean-Dice" if self.masks else "average drop"

    @property
    def values(self) -> NDArray[np.float64]:
        """The measure, (models, methods)."""
        numbers = [cell.mean_dice if self.masks else cell.average_drop for cell in self.cells]
        return np.array(numbers, np.float64).reshape(len(self.models), -1)

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the call."""
        return tuple(dict.fromkeys(cell.method for cell in self.cells))

    def model_table(self) -> Table:
        """Columns, and a row of strings per model: the classifier's scores and each method's measure."""
        rows = [
            (
                one.name,
                f"{one.parameters:,}",
                f"{one.accuracy:.3f}",
                f"{one.macro_f1:.3f}",
                *(f"{value:.3f}" for value in values),
            )
            for one, values in zip(self.models, self.values, strict=True)
        ]
        return ("model", "parameters", "accuracy", "macro-F1", *self.methods), rows

    def cell_table(self) -> Table:
        """Columns, and a row of strings per model and method."""
        columns = ("mean-Dice", "Dice", "threshold") if self.masks else ("average drop",)
        rows = [(cell.model, cell.method, *_numbers(cell), f"{cell.seconds:.3f}") for cell in self.cells]
        return ("model", "method", *columns, "seconds per image"), rows


def _numbers(cell: Cell) -> tuple[str, ...]:
    if cell.mean_dice is None or cell.interval is None or cell.level is None:
        return (f"{cell.average_drop:.3f}",)
    low, high = cell.interval
    # Half a level above it, so that three digits and either comparison give the same mask.
    return f"{cell.mean_dice:.3f} [{low:.3f}, {high:.3f}]", f"{cell.dice:.3f}", f"{(cell.level + 0.5) / 255:.3f}"


def write_comparison(out: Path, found: Comparison) -> None:
    """Write ``compare.json``, ``.csv`` with a line per model and method, ``.md`` and ``.png``."""
    write_json(out / "compare.json", found.to_dict())
    of_model = ("start", "parameters", "accuracy", "macro_f1")
    of_cell = ("images", "mean_dice", "low", "high", "dice", "level", "average_drop", "seconds")
    models = {one.name: one for one in found.models}
    rows = []
    for cell in found.cells:
        low, high = cell.interval or (None, None)
        values = {**asdict(cell), "low": low, "high": high}
        scores = [getattr(models[cell.model], name) for name in of_model]
        rows.append((cell.model, *scores, cell.method, *(values[name] for name in of_cell)))
    write_csv(out / "compare.csv", ("model", *of_model, "method", *of_cell), rows)
    title = f"{found.measure[0].upper()}{found.measure[1:]} by model and method:\n"
    tables = (as_markdown(found.model_table()), as_markdown(found.cell_table()))
    write_text(out / "compare.md", "\n".join((title, *tables, " ".join(found.notes))) + "\n")
    names = [one.name for one in found.models]
    write_image(out / "compare.png", plot_heat_map(found.values, names, found.methods, label=found.measure))
