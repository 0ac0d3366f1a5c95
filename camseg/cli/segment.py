"""``camseg segment``."""

from typing import Annotated

import camseg
from camseg.cli import console, fields, options
from camseg.label.settings import SegmenterOptions, SegmentSettings
from camseg.runs.settings import FolderOptions, Placement

SPELLED = fields.Spelled(
    {
        "propagation.method": "propagation",
        "propagation.args": "propagation_arg",
        "refinement.method": "refiner",
        "trimap.recipe": "trimap_recipe",
        "save": "save",
    }
)
"""Where the name of a stage's field would not say which stage is meant."""


@fields.command
def segment(
    images: options.ImagesPlace,
    out: options.OutPlace,
    run: SegmenterOptions,
    settings: Annotated[SegmentSettings, SPELLED],
    folder: FolderOptions,
    placement: Placement,
    json: options.Json = False,
) -> None:
    """Segment a folder by a segmentation network: OUT/masks/<path>.png; continues where it was stopped."""
    segmenter = camseg.load_segmenter(run.segmenter, placement.load_on(run.device))
    if run.negative:
        segmenter = segmenter.with_negative(run.negative)
    report = camseg.segment_folder(
        images,
        segmenter,
        out,
        settings,
        batch_size=run.batch_size,
        options=console.attached(folder),
        placement=placement,
    )
    console.finish(report, out, json, folder.dry_run, placement.shard)
