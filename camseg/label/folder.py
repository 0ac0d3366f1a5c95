"""Folders through a classifier: its maps (``cams``), or the whole chain (``label``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camseg.base.errors import InputError
from camseg.base.settings import from_json, to_json
from camseg.data.datasets import Dataset, load_images, with_known_labels
from camseg.data.mask_settings import MaskReading
from camseg.data.remarks import data_remarks
from camseg.data.truth import find_true_masks
from camseg.label.chain import map_stages, mask_stages
from camseg.label.file_stages import WriteCamsStage, WriteStage, saved_kinds
from camseg.label.quality_stage import QualityStage
from camseg.label.settings import CamsOutput, ClassifierOptions, LabelSettings
from camseg.label.stages import FuseStage
from camseg.refinement.refine import open_refiner
from camseg.runs.loop import FolderReport, run_folder
from camseg.runs.output import prediction_root
from camseg.runs.settings import FolderOptions, Placement
from camseg.runs.stage import Stage, new_item

if TYPE_CHECKING:
    from camseg.cams.scores import Decider
    from camseg.cams.settings import CamSettings
    from camseg.classify.checkpoint import AnyClassifier
    from camseg.classify.targets import TargetRule


def label_folder(
    images: Dataset | Path | str,
    classifier: "AnyClassifier",
    out: Path | str,
    settings: LabelSettings | None = None,
    *,
    targets: Sequence[str] = (),
    batch_size: int = ClassifierOptions.batch_size,
    options: FolderOptions | None = None,
    placement: Placement | None = None,
) -> FolderReport:
    """Label every image of a folder or CSV into ``out/masks``, and on request ``cams``, ``trimaps``, ...

    ``images`` is read by ``datasets.load_images`` where it is no Dataset yet; ``placement`` says where that is done.
    Both ``images`` and ``out`` are of this machine: ``mirror_images`` and ``OutputMirror`` make such of addresses.
    Continues an interrupted run with equal settings. An image that fails is reported and listed in the
    manifest; the others are finished. Raises OutputError or InputError before any work starts.
    """
    settings = settings or LabelSettings()
    kinds = saved_kinds(settings.save)
    behind = [*mask_stages(settings, classifier.shares), WriteStage(folder=Path(out), kinds=kinds)]
    guided = settings.propagation.needs_features
    open_refiner(settings.refinement, str(classifier.device))
    return _network_folder(
        "label",
        images,
        classifier,
        out,
        cams=settings.cams,
        behind=behind,
        asked=to_json(settings),
        targets=targets,
        batch_size=batch_size,
        options=options,
        placement=placement,
        guided=guided,
    )


def cams_folder(
    images: Dataset | Path | str,
    classifier: "Decider",
    out: Path | str,
    settings: "CamSettings",
    *,
    targets: Sequence[str] = (),
    batch_size: int = ClassifierOptions.batch_size,
    save: Sequence[str] = CamsOutput.save,
    masks: Path | str | None = None,
    reading: MaskReading | None = None,
    options: FolderOptions | None = None,
    placement: Placement | None = None,
) -> FolderReport:
    """Write the maps of every image into ``out/<method>/...``, on request drawn over it (``save``: ``overlays``) too.

    ``classifier``: or a segmenter; then labels count as far as it knows them. ``masks``: for its score ``mask``, a
    folder of masks, ``<path>.png`` or ``<class>/<path>.png``; ``reading``: which class of them counts, where they hold
    several. Otherwise as ``label_folder``.
    """
    output = from_json(CamsOutput, {"save": list(save)})
    if settings.raw and output.save:
        raise InputError("overlays are drawn of maps in [0, 1]; leave raw or overlays out")
    overlays = settings.methods if "overlays" in output.save else ()
    behind = [WriteCamsStage(folder=Path(out), raw=settings.raw, overlays=overlays)]
    if (masks is not None) != (settings.score == "mask"):
        raise InputError("masks and the score mask go together: give both, or neither")
    reading = reading or MaskReading()
    if masks is None and reading.mask_class is not None:
        raise InputError("a mask class, but no masks that hold it; give masks, or leave it out")
    asked = {**to_json(settings), **to_json(output)}
    asked |= {} if masks is None else {"masks": str(Path(masks).absolute()), **to_json(reading)}
    return _network_folder(
        "cams",
        images,
        classifier,
        out,
        cams=settings,
        behind=behind,
        asked=asked,
        targets=targets,
        batch_size=batch_size,
        options=options,
        placement=placement,
        masks=masks,
        reading=reading,
    )


def _network_folder(
    command: str,
    images: Dataset | Path | str,
    classifier: "Decider",
    out: Path | str,
    *,
    cams: "CamSettings",
    behind: Sequence[Stage],
    asked: Mapping[str, Any],
    targets: Sequence[str],
    batch_size: int,
    options: FolderOptions | None,
    placement: Placement | None,
    guided: bool = False,
    masks: Path | str | None = None,
    reading: MaskReading | None = None,
) -> FolderReport:
    """The folder loop with a network in front of the stages ``behind``; ``guided``: for features to propagate over."""
    from camseg.cams.plan import plan
    from camseg.classify.targets import target_rule
    from camseg.segment.segmenter import Segmenter

    options = options or FolderOptions()
    if isinstance(classifier, Segmenter):
        data = images if isinstance(images, Dataset) else load_images(images)
        data = with_known_labels(data, [*classifier.classes, *classifier.negative])
    else:
        data = images if isinstance(images, Dataset) else load_images(images, classifier.classes)
    rule = target_rule(targets, classifier, data.samples)
    for remark in data_remarks(data, classifier.window):
        options.say(f"note: {remark}")
    if rule.word != "predicted" and (line := _labels_line(data, rule, classifier)):
        options.say(line)
    apart = any(isinstance(stage, FuseStage) for stage in behind)
    ready = plan(classifier, cams, guided=guided)
    views = any(isinstance(stage, QualityStage) for stage in behind)
    source = None
    if masks is not None:
        source = find_true_masks(prediction_root(masks), data.samples, reading=reading, negative=classifier.negative)
    stages = [*map_stages(ready, rule, batch_size, options.say, apart=apart, views=views, masks=source), *behind]
    run = {classifier.members[0].KIND: classifier.run, "negative": list(classifier.negative)}
    stride = classifier.members[0].model_args.get("output_stride")
    return run_folder(
        command,
        data,
        [new_item(sample, classifier.window) for sample in data.samples],
        stages,
        out,
        settings={
            **asked,
            **run,
            **({} if stride is None else {"output_stride": stride}),
            "targets": list(targets),
            "batch_size": batch_size,
            "device": str(classifier.device),
        },
        device=str(classifier.device),
        batch_size=batch_size,
        options=options,
        placement=placement,
    )


def _labels_line(data: Dataset, rule: "TargetRule", classifier: "Decider") -> str | None:
    """That labels decide, and where they stand; None where they do not."""
    labelled = [sample for sample in data.samples if sample.labels is not None]
    named = rule.word in (None, "all")
    if not labelled or (named and not any(rule.is_empty(classifier, sample) for sample in labelled)):
        return None
    place = "as their folders are named" if data.root.is_dir() else "by their table"
    decided = "which images hold no object" if named else "for which class each gets its map"
    return (
        f"{len(labelled)} of {len(data.samples)} images are labelled, {place}: the labels decide {decided}, not the "
        f"{classifier.members[0].KIND}; --target predicted asks that"
    )
