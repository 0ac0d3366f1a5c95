"""Folders through the chain, or through one of its stages: what the commands from ``cams`` to ``label`` do."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camseg.base.errors import InputError
from camseg.base.progress import Say
from camseg.base.settings import from_json, to_json
from camseg.data.datasets import Dataset, Sample, load_images, with_known_labels
from camseg.data.images import Window, check_window, relative_name
from camseg.data.mask_settings import MaskReading
from camseg.data.remarks import data_remarks
from camseg.data.truth import find_true_masks
from camseg.label.chain import map_stages, mask_stages
from camseg.label.quality_stage import QualityStage
from camseg.label.settings import CamsOutput, ClassifierOptions, LabelSettings
from camseg.label.stages import (
    CleanStage,
    FuseStage,
    PropagateStage,
    ReadStage,
    RefineStage,
    ThresholdStage,
    TrimapStage,
    WriteCamsStage,
    WriteStage,
)
from camseg.masks.settings import CleaningSettings, MaskSettings
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.refine import open_network
from camseg.refinement.settings import RefineSettings, TrimapSettings
from camseg.runs.corrections import decided_masks, find_machine_masks, stale_line
from camseg.runs.lineage import records_by_file
from camseg.runs.loop import FolderReport, run_folder
from camseg.runs.output import prediction_root
from camseg.runs.record import Record
from camseg.runs.settings import FolderOptions, Placement
from camseg.runs.stage import Item, Stage, new_item

if TYPE_CHECKING:
    from camseg.cams.scores import Decider
    from camseg.cams.settings import CamSettings
    from camseg.classify.checkpoint import AnyClassifier
    from camseg.classify.targets import TargetRule

_SINGULAR: Final = {"cams": "cam", "trimaps": "trimap", "alphas": "alpha", "overlays": "overlay"}


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


def saved_kinds(save: Sequence[str]) -> dict[str, str]:
    """The kinds of files that a chain writes, masks and what is asked for, with their subfolders."""
    return {"mask": "masks"} | {_SINGULAR[kind]: kind for kind in _SINGULAR if kind in save}


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
    asked |= {} if masks is None else {"masks": _absolute(masks), **to_json(reading)}
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


def propagate_folder(
    images: Dataset | Path | str,
    cams: Path | str,
    out: Path | str,
    settings: PropagateSettings | None = None,
    *,
    device: str = "cpu",
    classifier: "AnyClassifier | None" = None,
    window: Window = "full",
    options: FolderOptions | None = None,
) -> FolderReport:
    """Spread one method's maps in the folder ``cams`` into ``out/<method>/...``.

    ``classifier``: for methods that walk over its features; ``window``: how 16-bit images become 8-bit, as it was for
    the classifier.
    """
    settings = settings or PropagateSettings()
    data = images if isinstance(images, Dataset) else load_images(images)
    stages: list[Stage] = [ReadStage(kind="cam", root=Path(cams), images=data.root, window=window)]
    if settings.needs_features:
        from camseg.label.network_stages import FeatureStage, SquareStage

        if classifier is None:
            raise InputError(f"{settings.method} walks over a classifier's features; name it with --classifier RUN")
        stages += [
            SquareStage(classifier=classifier),
            FeatureStage(classifier=classifier, batch_size=ClassifierOptions.batch_size),
        ]
    elif settings.method == "none":
        raise InputError("expected a propagation by name; none is only for the whole chain")
    stages += [PropagateStage(settings=settings), WriteCamsStage(folder=Path(out))]
    asked = {**to_json(settings), "window": window, "classifier": None if classifier is None else classifier.run}
    asked |= {"device": device}
    return _file_folder("propagate", cams, out, stages, asked, options, data, window, device)


def masks_folder(
    cams: Path | str,
    out: Path | str,
    settings: MaskSettings | None = None,
    cleaning: CleaningSettings | None = None,
    *,
    options: FolderOptions | None = None,
) -> FolderReport:
    """Binarise the maps in the folder ``cams`` into ``out``."""
    settings, cleaning = settings or MaskSettings(), cleaning or CleaningSettings()
    stages = [
        ReadStage(kind="cam", root=Path(cams)),
        ThresholdStage(settings=settings),
        CleanStage(settings=cleaning),
        WriteStage(folder=Path(out), kinds={"mask": ""}),
    ]
    return _file_folder("masks", cams, out, stages, to_json(settings) | to_json(cleaning), options)


def trimap_folder(
    source: Path | str,
    out: Path | str,
    settings: TrimapSettings | None = None,
    *,
    cams: Path | str | None = None,
    reading: MaskReading | None = None,
    options: FolderOptions | None = None,
) -> FolderReport:
    """Make trimaps of the masks, or by two thresholds of the maps, in the folder ``source``.

    ``cams``: the folder of the maps that the masks were made of, for what those are sure of; ``reading``: which class
    of the masks counts, where they hold several. What they give no class is unknown.
    """
    settings, reading = settings or TrimapSettings(), reading or MaskReading()
    options = options or FolderOptions()
    if settings.from_map and reading.mask_class is not None:
        raise InputError("two thresholds cut a trimap from a map, which has no mask class; leave that out, or those")
    beside = _beside("cam", cams)
    stages = [
        ReadStage(kind="cam", root=Path(source))
        if settings.from_map
        else ReadStage(
            kind="mask", root=Path(source), beside=beside, reading=reading, drawn=_drawn(source, options.say)
        ),
        TrimapStage(settings=settings),
        WriteStage(folder=Path(out), kinds={"trimap": ""}),
    ]
    asked = {**to_json(settings), "cams": _absolute(cams), **to_json(reading)}
    return _file_folder("trimap", source, out, stages, asked, options)


def refine_folder(
    images: Dataset | Path | str,
    trimaps: Path | str,
    out: Path | str,
    settings: RefineSettings | None = None,
    cleaning: CleaningSettings | None = None,
    *,
    masks: Path | str | None = None,
    reading: MaskReading | None = None,
    device: str = "cpu",
    save: Sequence[str] = (),
    window: Window = "full",
    options: FolderOptions | None = None,
) -> FolderReport:
    """Refine every trimap into ``out/masks``, on request also ``alphas`` and ``foregrounds`` (RGBA).

    ``masks``: the folder of what an unusable trimap or a worse mask falls back to; ``reading``: which class of those
    counts, where they hold several; ``device``: for a trained network; ``window`` as in ``propagate_folder``.
    """
    reading, options = reading or MaskReading(), options or FolderOptions()
    if masks is None and reading.mask_class is not None:
        raise InputError("a mask class, but no masks that hold it; give masks to fall back to, or leave it out")
    settings, cleaning = settings or RefineSettings(), cleaning or CleaningSettings()
    if settings.method == "none":
        raise InputError("expected a refiner by name; none is only for the whole chain")
    open_refiner(settings, device)
    kinds = {"mask": "masks"} | {kind.removesuffix("s"): kind for kind in ("alphas", "foregrounds") if kind in save}
    data = images if isinstance(images, Dataset) else load_images(images)
    stages = [
        ReadStage(
            kind="trimap",
            root=Path(trimaps),
            beside=_beside("mask", masks),
            images=data.root,
            window=window,
            reading=reading,
            drawn={} if masks is None else _drawn(masks, options.say),
        ),
        RefineStage(settings=settings, colors="foregrounds" in save),
        CleanStage(settings=cleaning),
        QualityStage(),
        WriteStage(folder=Path(out), kinds=kinds),
    ]
    asked = {**to_json(settings), **to_json(cleaning), "masks": _absolute(masks), **to_json(reading), "window": window}
    asked |= {"alpha": "alphas" in save, "foreground": "foregrounds" in save, "device": device}
    return _file_folder("refine", trimaps, out, stages, asked, options, data, window, device)


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


def _file_folder(
    command: str,
    source: Path | str,
    out: Path | str,
    stages: Sequence[Stage],
    settings: Mapping[str, Any],
    options: FolderOptions | None,
    images: Dataset | None = None,
    window: Window = "full",
    device: str = "cpu",
) -> FolderReport:
    """The folder loop over files that an earlier command wrote; ``images``: those that they belong to."""
    check_window(window)
    found = find_machine_masks(source)
    # What is known of a file: by its own folder's manifest, else by that of what lies beside it.
    folders = [found.root, *(folder for stage in stages for folder in getattr(stage, "beside", {}).values())]
    earlier = [(folder, records_by_file(folder)) for folder in folders]
    # A map's image has its name, or its name without the class folder in front.
    partners = {} if images is None else {sample.name: sample for sample in images.samples}
    items = []
    for path in found.files:
        name = relative_name(path, found.root)
        partner = partners.get(name) or partners.get(name.partition("/")[2])
        unknown = Record(input=name + path.suffix if partner is None else partner.input, name=name)
        places = ((known, (folder / f"{name}.png").absolute().with_suffix("")) for folder, known in earlier)
        before = next((known[place] for known, place in places if place in known), unknown)
        sample = Sample(path=path, name=name, labels=before.labels)
        # What an earlier stage was told of the file stays known.
        record = replace(before, name=name, files={}, fallback=None, area=None, quality_reasons=(), agreements={})
        if before.empty is None:
            record = replace(record, quality=None)  # of a mask that will be another one
        image = None if partner is None else partner.path
        items.append(Item(sample=sample, record=record, name=name, source=image, window=window))
    data = Dataset(
        root=found.root,
        samples=tuple(item.sample for item in items),
        classes=(),
        multi_label=False,
        failures=found.failures,
    )
    return run_folder(
        command,
        data,
        items,
        stages,
        out,
        settings=settings,
        device=device,
        batch_size=ClassifierOptions.batch_size,
        options=options,
    )


def open_refiner(settings: RefineSettings, device: str) -> None:
    """Read a refiner's weights before any work is begun; raises CheckpointError."""
    if settings.weights is not None:
        open_network(settings.method, settings.weights, device)


def _drawn(masks: Path | str, say: Say) -> dict[Path, Path]:
    """The masks that people drew in the place of some of a folder, by the absolute paths of those."""
    decided = decided_masks(masks)
    if line := stale_line(decided.values(), masks):
        say(f"note: {line}")
    return {path: one.file for path, one in decided.items() if one.drawn and one.file is not None}


def _absolute(folder: Path | str | None) -> str | None:
    """A folder as run.json names it, to be found from anywhere."""
    return None if folder is None else str(Path(folder).absolute())


def _beside(kind: str, folder: Path | str | None) -> dict[str, Path]:
    """The folder of what belongs to the inputs, by its kind; InputError where it is none."""
    if folder is None:
        return {}
    if not Path(folder).is_dir():
        raise InputError(f"expected the folder of the {kind}s that belong to the inputs; {folder} is none")
    return {kind: Path(folder)}
