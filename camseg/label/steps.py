"""Folders through one step of the chain, from what an earlier one wrote: propagate, masks, trimap, refine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camseg.base.errors import InputError
from camseg.base.progress import Say
from camseg.base.settings import to_json
from camseg.data.datasets import Dataset, Sample, load_images
from camseg.data.images import Window, check_window, relative_name
from camseg.data.mask_settings import MaskReading
from camseg.label.file_stages import ReadStage, WriteCamsStage, WriteStage
from camseg.label.quality_stage import QualityStage
from camseg.label.settings import ClassifierOptions
from camseg.label.stages import CleanStage, PropagateStage, RefineStage, ThresholdStage, TrimapStage
from camseg.masks.settings import CleaningSettings, MaskSettings
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.refine import open_refiner
from camseg.refinement.settings import RefineSettings, TrimapSettings
from camseg.runs.corrections import decided_masks, find_machine_masks, stale_line
from camseg.runs.lineage import records_by_file
from camseg.runs.loop import FolderReport, run_folder
from camseg.runs.record import Record
from camseg.runs.settings import FolderOptions
from camseg.runs.stage import Item, Stage

if TYPE_CHECKING:
    from camseg.classify.checkpoint import AnyClassifier


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
