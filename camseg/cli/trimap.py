"""``camseg trimap``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, options


def trimap(
    source: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks; with --low and --high of maps.")],
    out: options.Out,
    open: options.Open = "0",
    close: options.Close = "0",
    dilate: options.Dilate = "20%",
    erode: options.Erode = "10%",
    low: options.Low = None,
    high: options.High = None,
    workers: options.Workers = 2,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Turn masks or maps into trimaps: OUT/<path>.png, 0, 128 and 255."""
    from camseg.pipeline import TrimapSettings
    from camseg.results import prediction_root
    from camseg.stages import trimap_folder

    folder = console.folder_options(workers, overwrite, dry_run)
    settings = TrimapSettings(open=open, close=close, dilate=dilate, erode=erode, low=low, high=high)
    report = trimap_folder(prediction_root(source), out, settings, options=folder)
    console.finish(report, out, json, dry_run)
