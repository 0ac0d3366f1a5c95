"""``camseg loop``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import camseg
from camseg.cli import console, fields, options

if TYPE_CHECKING:
    from camseg.review.progress import MeanEstimate


@fields.command
def loop(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="What label, segment or refine wrote.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder or CSV of the images; default: where run.json says.")
    ] = None,
    save_threshold: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the level that is best on corrected masks, for label --threshold."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Tell where one stands: what was reviewed, what is to be expected of the rest, what the next 20 reviews bring."""
    from camseg.review.progress import STEP, times_table

    found = camseg.loop_folder(folder, images=images, save_threshold_to=save_threshold)
    if json:
        console.print_json(found.to_dict())
        return
    title = f"{found.times['reviewed']} of {found.times['masks']} masks reviewed"
    console.print_table(*times_table(dict(found.times)), title=title)
    rows = [("machine's masks that were judged", "-" if found.judged_dice is None else f"{found.judged_dice:.3f}")]
    rows.append((f"the {found.rest} that nobody has looked at, expected", _text(found.rest_dice)))
    rows.append(("all masks as they are now, expected", _text(found.now_dice)))
    rows.append((f"raised by the next {STEP} reviews, worst first, by", _text(found.next_gain)))
    basis = f"{found.judged} judged masks, {found.at_random} of them drawn at random"
    console.print_table(("masks with an object", "mean Dice"), rows, title=f"by {basis}; intervals of 95 %")
    if found.threshold is not None:
        level, reached = found.threshold["level"], found.threshold["dice"]
        console.say(f"level {level} reaches Dice {reached:.3f} on {found.threshold['masks']} corrected masks")


def _text(estimate: "MeanEstimate | None") -> str:
    return "-" if estimate is None else f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
