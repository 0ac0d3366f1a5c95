"""``camseg trimap``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, options


def trimap(
    source: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks; with --low and --high of maps.")],
    out: options.Out,
    cams: Annotated[
        Path | None, typer.Option(help="Folder of the maps that the masks were made of, for --sure.")
    ] = None,
    recipe: options.TrimapRecipe = "fitted",
    open: options.Open = "0",
    close: options.Close = "0",
    dilate: options.Dilate = "20%",
    erode: options.Erode = "20%",
    sure: options.Sure = "max:0.85",
    low: options.Low = None,
    high: options.High = None,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Turn masks or maps into trimaps: OUT/<path>.png, 0, 128 and 255."""
    from camseg.label.settings import TrimapSettings
    from camseg.label.stages import trimap_folder
    from camseg.runs.output import map_root, prediction_root

    settings = TrimapSettings(
        recipe=recipe,
        open=open,
        close=close,
        dilate=dilate,
        erode=erode,
        sure=options.optional(sure),
        low=low,
        high=high,
    )
    folder = console.folder_options(workers, overwrite, dry_run)
    maps = None if cams is None else map_root(cams)
    report = trimap_folder(prediction_root(source), out, settings, cams=maps, options=folder)
    console.finish(report, out, json, dry_run)
