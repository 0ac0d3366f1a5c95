"""``camseg merge``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options


@fields.command
def merge(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that holds the shards, or a new one.")],
    others: Annotated[
        list[Path] | None, typer.Argument(metavar="[OTHER]...", help="Further folders, whose files are copied.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Join the shards that several calls wrote into OUT, or the outputs in several folders, into one manifest."""
    from camseg.runs.merge import merge_folders

    report = merge_folders(folder, others or (), progress=console.progress)
    failed = [record.error for record in report.failed]
    for one in report.uncorrected:
        console.say(f"note: the corrections in {one} stay there; masks count uncorrected in {folder}")
    if json:
        console.print_json({"out": str(folder), "inputs": report.inputs, "copied": report.copied, "failed": failed})
    else:
        copied = f", {report.copied} files copied" if others else ""
        console.say(f"{report.inputs} inputs{copied}, {len(failed)} had failed: {folder}")
    if failed:
        raise typer.Exit(1)
