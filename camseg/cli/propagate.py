"""``camseg propagate``."""

from pathlib import Path
from typing import Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.label.settings import PropagateInputs
from camseg.propagation.settings import PropagateSettings
from camseg.runs.settings import FolderOptions


@fields.command
def propagate(
    images: options.ImagesArgument,
    cams: Annotated[Path, typer.Option(help="Folder of one method's maps.")],
    out: options.Out,
    settings: Annotated[PropagateSettings, fields.Spelled({"args": "arg"})],
    inputs: PropagateInputs,
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Spread maps along the images' own edges: OUT/<method>/<path>.png."""
    from camseg.base.device import find_device
    from camseg.runs.output import map_root

    where = str(find_device(inputs.device))
    run = None if inputs.classifier is None else camseg.load_classifier(inputs.classifier, where)
    report = camseg.propagate_folder(
        images,
        map_root(cams),
        out,
        settings,
        device=where,
        classifier=run,
        window=inputs.window,
        options=console.attached(folder),
    )
    console.finish(report, out, json, folder.dry_run)
