"""``camseg cams``."""

import camseg
from camseg.cams.settings import CamSettings
from camseg.cli import console, fields, options
from camseg.data.mask_settings import MaskReading
from camseg.label.settings import CamsOutput, LookedIntoOptions
from camseg.runs.settings import FolderOptions, Placement


@fields.command
def cams(
    images: options.ImagesPlace,
    out: options.OutPlace,
    run: LookedIntoOptions,
    settings: CamSettings,
    reading: MaskReading,
    output: CamsOutput,
    folder: FolderOptions,
    placement: Placement,
    json: options.Json = False,
) -> None:
    """Write class activation maps of images: OUT/<method>/<path>.png."""
    report = camseg.cams_folder(
        images,
        console.open_network(run, placement.load_on(run.device)),
        out,
        settings,
        targets=run.targets,
        batch_size=run.batch_size,
        save=output.save,
        masks=run.masks,
        reading=reading,
        options=console.attached(folder),
        placement=placement,
    )
    console.finish(report, out, json, folder.dry_run, placement.shard)
