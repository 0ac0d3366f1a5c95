"""``camseg demo``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options
from camseg.runs.settings import FolderOptions


@fields.command
def demo(
    folder: Annotated[FolderOptions, fields.Spelled({"dry_run": ""})],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the outputs.")] = Path("demo"),
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Train on the sample data, run every stage, score each, and draw a contact sheet."""
    from camseg.studies.demo import run_demo

    result = run_demo(out, device=device, options=console.attached(folder))
    if json:
        console.print_json(result.to_dict())
    else:
        console.print_table(
            *result.table(), title=f"test images of the sample data, classifier {result.accuracy:.0%} right"
        )
        console.say(f"contact sheet: {result.contact_sheet}")
