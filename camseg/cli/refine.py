"""``camseg refine``."""

from pathlib import Path
from typing import Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.data.mask_settings import MaskReading
from camseg.label.settings import RefineInputs
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
    inputs: RefineInputs,
    reading: MaskReading,
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Decide the unknown band of trimaps from the images: OUT/masks/<path>.png."""
    from camseg.runs.output import prediction_root

    where = "cpu"
    if settings.weights is not None:
        from camseg.base.device import find_device

        where = str(find_device(inputs.device))
    report = camseg.refine_folder(
        images,
        trimap,
        out,
        settings,
        cleaning,
        masks=None if inputs.masks is None else prediction_root(inputs.masks),
        reading=reading,
        device=where,
        save=[kind for kind, wanted in (("alphas", inputs.alpha), ("foregrounds", inputs.foreground)) if wanted],
        window=inputs.window,
        options=console.attached(folder),
    )
    console.finish(report, out, json, folder.dry_run)
