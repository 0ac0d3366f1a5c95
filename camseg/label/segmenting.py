"""Folders through a segmentation network: what ``camseg segment`` does, with the loop and the stages of ``label``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from camseg.base.settings import to_json
from camseg.data.datasets import Dataset, load_images, with_known_labels
from camseg.data.remarks import data_remarks
from camseg.label.chain import outline_stages
from camseg.label.file_stages import WriteStage, saved_kinds
from camseg.label.settings import SegmenterOptions, SegmentSettings
from camseg.label.stages import ThresholdStage
from camseg.masks.settings import MaskSettings
from camseg.refinement.refine import open_refiner
from camseg.runs.loop import FolderReport, run_folder
from camseg.runs.settings import FolderOptions, Placement
from camseg.runs.stage import Stage, new_item

if TYPE_CHECKING:
    from camseg.segment.segmenter import Segmenter


def segment_folder(
    images: Dataset | Path | str,
    segmenter: "Segmenter",
    out: Path | str,
    settings: SegmentSettings | None = None,
    *,
    batch_size: int = SegmenterOptions.batch_size,
    options: FolderOptions | None = None,
    placement: Placement | None = None,
) -> FolderReport:
    """Segment every image of a folder or CSV into ``out/masks``, and on request ``cams`` (probabilities), ...

    With several classes there is a folder for each. ``images`` is read by ``datasets.load_images`` where it is no
    Dataset yet; labels that the segmenter knows, as classes or as negative, gate its masks unless the settings say
    otherwise. Addresses, and what is continued, are as in ``label_folder``. An image that fails is reported and
    listed in the manifest; the others are finished. Raises OutputError or InputError before any work starts.
    """
    settings, options = settings or SegmentSettings(), options or FolderOptions()
    if settings.threshold is None and segmenter.multi_label:
        settings = replace(settings, threshold=settings.usual_threshold)
    given = images if isinstance(images, Dataset) else load_images(images)
    data = with_known_labels(given, [*segmenter.classes, *segmenter.negative])
    for remark in data_remarks(data, segmenter.window):
        options.say(f"note: {remark}")
    if settings.gate and (count := sum(sample.labels is not None for sample in data.samples)):
        options.say(
            f"{count} of {len(data.samples)} images have labels that the segmenter knows: these decide which classes "
            "they cannot show, not the network; --no-gate asks that alone"
        )
    device = str(segmenter.device)
    open_refiner(settings.refinement, device)
    return run_folder(
        "segment",
        data,
        [new_item(sample, segmenter.window) for sample in data.samples],
        [*_stages(segmenter, settings, batch_size), WriteStage(folder=Path(out), kinds=saved_kinds(settings.save))],
        out,
        settings={
            **to_json(settings),
            "segmenter": segmenter.run,
            "negative": list(segmenter.negative),
            "batch_size": batch_size,
            "device": device,
        },
        device=device,
        batch_size=batch_size,
        options=options,
        placement=placement,
    )


def _stages(segmenter: "Segmenter", settings: SegmentSettings, batch_size: int) -> Sequence[Stage]:
    from camseg.label.segment_stages import PixelStage, SegmentStage, TileStage

    tile, threshold = settings.views.tile, settings.threshold
    return [
        TileStage(segmenter=segmenter, tile=tile),
        SegmentStage(segmenter=segmenter, settings=settings.views, batch_size=batch_size),
        PixelStage(
            segmenter=segmenter,
            tile=tile,
            gate=settings.gate,
            likeliest=threshold is None,
            propagation=settings.propagation,
        ),
        *([] if threshold is None else [ThresholdStage(settings=MaskSettings(threshold=threshold))]),
        *outline_stages(settings),
    ]
