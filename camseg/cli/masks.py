"""``camseg masks``."""

from pathlib import Path
from typing import Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.masks.settings import CleaningSettings, MaskSettings
from camseg.runs.settings import FolderOptions


@fields.command
def masks(
    cams: Annotated[Path, typer.Argument(metavar="CAMS", help="Folder of one method's maps.")],
    out: options.Out,
    settings: MaskSettings,
    cleaning: CleaningSettings,
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Binarise maps: OUT/<path>.png, 0 and 255."""
    from camseg.runs.output import map_root

    report = camseg.masks_folder(map_root(cams), out, settings, cleaning, options=console.attached(folder))
    console.finish(report, out, json, folder.dry_run)
