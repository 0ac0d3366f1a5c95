"""``camseg refine``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, options


def refine(
    images: options.ImagesArgument,
    trimap: Annotated[Path, typer.Option(help="Folder of trimaps.")],
    out: options.Out,
    method: Annotated[str, typer.Option(help="closed-form or grabcut.")] = "closed-form",
    masks: Annotated[
        Path | None, typer.Option(help="Masks to fall back to; else unknown pixels take the nearest known region.")
    ] = None,
    alpha: Annotated[bool, typer.Option("--alpha", help="Also write OUT/alphas.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Also write cut-outs, RGBA: OUT/foregrounds.")
    ] = False,
    window: options.Window = "full",
    workers: options.Workers = 2,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Decide the unknown band of trimaps from the images: OUT/masks/<path>.png."""
    from camseg.datasets import load_images
    from camseg.stages import refine_folder

    folder = console.folder_options(workers, overwrite, dry_run)
    save = [kind for kind, wanted in (("alphas", alpha), ("foregrounds", foreground)) if wanted]
    data = load_images(images)
    report = refine_folder(data, trimap, out, method, masks=masks, save=save, window=window, options=folder)
    console.finish(report, out, json, dry_run)
