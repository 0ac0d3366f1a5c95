"""``camseg refine``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, options


def refine(
    images: options.ImagesArgument,
    trimap: Annotated[Path, typer.Option(help="Folder of trimaps.")],
    out: options.Out,
    method: Annotated[
        str, typer.Option(help="auto, closed-form, grabcut, random-walker, knn, lkm, lbdm, rw, or fba with --weights.")
    ] = "closed-form",
    weights: options.RefinerWeights = None,
    masks: Annotated[
        Path | None, typer.Option(help="Masks to fall back to; else unknown pixels take the nearest known region.")
    ] = None,
    alpha: Annotated[bool, typer.Option("--alpha", help="Also write OUT/alphas.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Also write cut-outs, RGBA: OUT/foregrounds.")
    ] = False,
    smooth: options.Smooth = "0",
    fill_holes: options.FillHoles = "none",
    min_area: options.MinArea = "0",
    keep: options.Keep = None,
    window: options.Window = "full",
    device: options.Device = "auto",
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Decide the unknown band of trimaps from the images: OUT/masks/<path>.png."""
    from camseg.classify.classifier import find_device
    from camseg.data.datasets import load_images
    from camseg.label.stages import refine_folder
    from camseg.masks.cleaning import PostprocessingSettings

    report = refine_folder(
        load_images(images),
        trimap,
        out,
        method,
        masks=masks,
        weights=None if weights is None else str(weights),
        device="cpu" if weights is None else str(find_device(device)),
        postprocessing=PostprocessingSettings(smooth=smooth, fill_holes=fill_holes, min_area=min_area, keep=keep),
        save=[kind for kind, wanted in (("alphas", alpha), ("foregrounds", foreground)) if wanted],
        window=window,
        options=console.folder_options(workers, overwrite, dry_run),
    )
    console.finish(report, out, json, dry_run)
