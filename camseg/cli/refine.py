"""``camseg refine``."""

from pathlib import Path
from typing import Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.masks.settings import CleaningSettings
from camseg.refinement.settings import RefineSettings
from camseg.runs.settings import FolderOptions


@fields.command
def refine(
    images: options.ImagesArgument,
    trimap: Annotated[Path, typer.Option(help="Folder of trimaps.")],
    out: options.Out,
    settings: RefineSettings,
    cleaning: CleaningSettings,
    folder: FolderOptions,
    masks: Annotated[
        Path | None, typer.Option(help="Masks to fall back to; else unknown pixels take the nearest known region.")
    ] = None,
    alpha: Annotated[bool, typer.Option("--alpha", help="Also write OUT/alphas.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Also write cut-outs, RGBA: OUT/foregrounds.")
    ] = False,
    window: options.Window = "full",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Decide the unknown band of trimaps from the images: OUT/masks/<path>.png."""
    where = "cpu"
    if settings.weights is not None:
        from camseg.base.device import find_device

        where = str(find_device(device))
    report = camseg.refine_folder(
        images,
        trimap,
        out,
        settings,
        cleaning,
        masks=masks,
        device=where,
        save=[kind for kind, wanted in (("alphas", alpha), ("foregrounds", foreground)) if wanted],
        window=window,
        options=console.attached(folder),
    )
    console.finish(report, out, json, folder.dry_run)
