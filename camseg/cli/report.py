"""``camseg report``."""

from pathlib import Path
from typing import Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.data.mask_settings import MaskReading
from camseg.review.settings import ReportSettings


@fields.command
def report(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="What label, segment or refine wrote.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page; JSON and CSV are written beside it.")
    ],
    settings: ReportSettings,
    reading: MaskReading,
    images: Annotated[
        Path | None, typer.Option(help="Folder or CSV of the images; default: where run.json says.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of true masks, of the same relative paths as those of OUT.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Write one HTML file that tells what masks are worth: pictures, worst first, charts, where they come from."""
    found = camseg.report_folder(
        folder, out, settings, images=images, masks=masks, reading=reading, progress=console.progress
    )
    for remark in found.remarks:
        console.say(f"note: {remark}")
    if json:
        console.print_json(found.to_dict())
    else:
        risk = found.risk
        order = (
            "" if risk is None or risk.spearman is None else f"; Spearman's correlation with Dice {risk.spearman:.2f}"
        )
        console.say(f"{len(found.rows)} masks, {len(found.shown)} pictures{order}: {out}")
