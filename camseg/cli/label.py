"""``camseg label``."""

from typing import Annotated

import camseg
from camseg.cli import console, fields, options
from camseg.label.settings import ClassifierOptions, LabelSettings
from camseg.runs.settings import FolderOptions, Placement

SPELLED = fields.Spelled(
    {
        "cams.raw": "",
        "propagation.method": "propagation",
        "propagation.args": "propagation_arg",
        "refinement.method": "refiner",
        "trimap.recipe": "trimap_recipe",
        "save": "save",
    }
)
"""Where the name of a stage's field would not say which stage is meant."""


@fields.command
def label(
    images: options.ImagesPlace,
    out: options.OutPlace,
    run: ClassifierOptions,
    settings: Annotated[LabelSettings, SPELLED],
    folder: FolderOptions,
    placement: Placement,
    json: options.Json = False,
) -> None:
    """Label a folder: the whole chain from image to mask, OUT/masks/<path>.png; continues where it was stopped."""
    classifier, data = console.open_run(run, images, placement.load_on(run.device))
    report = camseg.label_folder(
        data,
        classifier,
        out,
        settings,
        targets=run.targets,
        batch_size=run.batch_size,
        options=console.attached(folder),
        placement=placement,
    )
    console.finish(report, out, json, folder.dry_run, placement.shard)
