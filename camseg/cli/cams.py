"""``camseg cams``."""

import camseg
from camseg.cams.settings import CamSettings
from camseg.cli import console, fields, options
from camseg.label.settings import CamsOutput, ClassifierOptions
from camseg.runs.settings import FolderOptions, Placement


@fields.command
def cams(
    images: options.ImagesArgument,
    out: options.Out,
    run: ClassifierOptions,
    settings: CamSettings,
    output: CamsOutput,
    folder: FolderOptions,
    placement: Placement,
    json: options.Json = False,
) -> None:
    """Write class activation maps of images: OUT/<method>/<path>.png."""
    classifier, data = console.open_run(run, images, placement.load_on(run.device))
    report = camseg.cams_folder(
        data,
        classifier,
        out,
        settings,
        targets=run.targets,
        batch_size=run.batch_size,
        save=output.save,
        options=console.attached(folder),
        placement=placement,
    )
    console.finish(report, out, json, folder.dry_run, placement.shard)
