"""``camseg propagate``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, options


def propagate(
    images: options.ImagesArgument,
    cams: Annotated[Path, typer.Option(help="Folder of one method's maps.")],
    out: options.Out,
    method: Annotated[str, typer.Option(help="par: pixel-adaptive refinement.")] = "par",
    window: options.Window = "full",
    device: options.Device = "auto",
    workers: options.Workers = 2,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Spread maps along the images' own edges: OUT/<method>/<path>.png."""
    from camseg.classifier import find_device
    from camseg.datasets import load_images
    from camseg.results import map_root
    from camseg.stages import propagate_folder

    folder = console.folder_options(workers, overwrite, dry_run)
    data, maps = load_images(images), map_root(cams)
    where = str(find_device(device))
    report = propagate_folder(data, maps, out, method, device=where, window=window, options=folder)
    console.finish(report, out, json, dry_run)
