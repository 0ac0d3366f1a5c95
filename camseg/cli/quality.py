"""``camseg quality``."""

from pathlib import Path
from typing import Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.review.settings import QualitySettings


@fields.command
def quality(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="What label, segment or refine wrote.")],
    settings: QualitySettings,
    json: options.Json = False,
) -> None:
    """Tell how far the masks of a folder can be trusted; fit that to corrections."""
    found = camseg.quality_folder(folder, settings)
    told = found.to_dict()
    for remark in found.items.remarks:
        console.say(f"note: {remark}")
    if (fit := found.fit) is not None:
        share = f"{100 * fit.explained:.0f} %" if fit.explained > 0 else "nothing"
        kept = "" if fit.explained > 0 else "; the qualities stay as they were"
        console.say(
            f"{fit.masks} masks that a person looked at, {fit.right} of them right: the best fit explains {share} of "
            f"what it did not see (Brier {fit.brier:.3f}, of the share of right ones {fit.base_brier:.3f}){kept}"
        )
    if json:
        console.print_json(told)
        return
    means = f"the probability that a mask's Dice is at least {found.least_dice}" if found.applied else "agreement"
    rows = [("masks", str(told["masks"])), ("of known quality", str(told["of_known_quality"]))]
    if told["quartiles"] is not None:
        rows += [("mean quality", f"{told['mean_quality']:.3f}")]
        rows += [("quartiles", ", ".join(f"{one:.3f}" for one in told["quartiles"]))]
    if told["spearman"] is not None:
        rows += [("Spearman's correlation with the Dice of corrections", f"{told['spearman']:.3f}")]
    rows += [(reason, str(count)) for reason, count in told["reasons"].items()]
    console.print_table(("quality", "masks"), rows, title=f"{folder}: quality is {means}")
