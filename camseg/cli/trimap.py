"""``camseg trimap``."""

from pathlib import Path
from typing import Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.data.mask_settings import MaskReading
from camseg.label.settings import TrimapInputs
from camseg.refinement.settings import TrimapSettings
from camseg.runs.settings import FolderOptions


@fields.command
def trimap(
    source: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks; with --low and --high of maps.")],
    out: options.Out,
    settings: TrimapSettings,
    inputs: TrimapInputs,
    reading: MaskReading,
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Turn masks or maps into trimaps: OUT/<path>.png, 0, 128 and 255."""
    from camseg.runs.output import map_root, prediction_root

    maps = None if inputs.cams is None else map_root(inputs.cams)
    masks = map_root(source) if settings.from_map else prediction_root(source)
    report = camseg.trimap_folder(masks, out, settings, cams=maps, reading=reading, options=console.attached(folder))
    console.finish(report, out, json, folder.dry_run)
