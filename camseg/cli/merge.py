"""``camseg merge``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.base.addresses import parse_place
from camseg.cli import console, fields, options
from camseg.cli.places import Location


@fields.command
def merge(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", parser=parse_place, help="Folder that holds the shards, or its address; or a new one."
        ),
        Location(written=True),
    ],
    others: Annotated[
        list[Path] | None, typer.Argument(metavar="[OTHER]...", help="Further folders, whose files are copied.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Join the shards that several calls wrote into OUT, or the outputs in several folders, into one manifest."""
    from camseg.runs.merge import merge_folders

    report = merge_folders(folder, others or (), progress=console.progress)
    failed = [record.error for record in report.failed]
    console.settle()
    for one in report.uncorrected:
        console.say(f"note: the corrections in {one} stay there; masks count uncorrected in {folder}")
    if json:
        console.print_json({"out": str(folder), "inputs": report.inputs, "copied": report.copied, "failed": failed})
    else:
        copied = f", {report.copied} files copied" if others else ""
        console.say(f"{report.inputs} inputs{copied}, {len(failed)} had failed: {folder}")
    if failed:
        raise typer.Exit(1)
