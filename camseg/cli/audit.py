"""``camseg audit``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options
from camseg.data.mask_settings import MaskReading
from camseg.studies.settings import AuditSettings


@fields.command
def audit(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN... DATA", help="Classifier runs; last a folder of class folders, or a CSV."),
    ],
    out: options.Out,
    settings: AuditSettings,
    reading: MaskReading,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of true masks, of the same relative paths as the images.")
    ] = None,
    filtered: Annotated[bool, typer.Option("--filtered", help="Keep the filtered images.")] = False,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Find out what classifiers look at: train them anew on images that show only that, or all but the objects."""
    from camseg.studies.audit import audit_runs

    *runs, data = inputs
    found = audit_runs(
        runs,
        data,
        out,
        masks=masks,
        reading=reading,
        settings=settings,
        keep_filtered=filtered,
        device=device,
        overwrite=overwrite,
        progress=console.progress,
        say=console.say,
    )
    if json:
        console.print_json(found.to_dict())
    else:
        console.print_table(*found.accuracy_table(), title="validation accuracy of networks trained anew")
        console.print_table(*found.measure_table(), title="measures of the maps")
        console.say(f"{found.note}\ntables{' and plot' if masks else ''}: {out}")
