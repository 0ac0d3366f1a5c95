"""``camseg masks``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, options


def masks(
    cams: Annotated[Path, typer.Argument(metavar="CAMS", help="Folder of one method's maps.")],
    out: options.Out,
    threshold: Annotated[
        str,
        typer.Option(help="0.4, max:0.7 (of the map's maximum), otsu, li, triangle, area:0.1, or a threshold FILE."),
    ] = "max:0.7",
    smooth: options.Smooth = "0",
    fill_holes: options.FillHoles = "none",
    min_area: options.MinArea = "0",
    keep: options.Keep = None,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Binarise maps: OUT/<path>.png, 0 and 255."""
    from camseg.label.stages import masks_folder
    from camseg.masks.cleaning import PostprocessingSettings
    from camseg.runs.output import map_root

    folder = console.folder_options(workers, overwrite, dry_run)
    afterwards = PostprocessingSettings(smooth=smooth, fill_holes=fill_holes, min_area=min_area, keep=keep)
    report = masks_folder(map_root(cams), out, threshold, afterwards, options=folder)
    console.finish(report, out, json, dry_run)
