"""``camseg prepare``: its commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from camseg.cli import console, options

if TYPE_CHECKING:
    from camseg.prepare.output import Report

prepare = typer.Typer(
    name="prepare",
    help="Make image folders with a labels.csv out of masked images, volumes, DICOM files and videos.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NegativeName = Annotated[str, typer.Option("--negative", metavar="NAME", help="Class of images without object.")]
MinPixels = Annotated[int, typer.Option("--min-area", min=1, metavar="PIXELS", help="Least area of an object.")]


@prepare.command()
def rois(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="Folder of images, one image, or CSV image[,label][,pair][,group].")
    ],
    masks: Annotated[Path, typer.Option(metavar="MASKS", help="Folder of masks at the images' paths.")],
    out: options.Out,
    per: Annotated[
        Literal["object", "image"], typer.Option(help="A crop around each object, or one around all of an image.")
    ] = "object",
    padding: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="Random padding per side, in percent of the box's size.")
    ] = "10,30",
    min_area: MinPixels = 1,
    negative: NegativeName = "negative",
    mirror: Annotated[bool, typer.Option("--mirror", help="Take the mirrored place of the paired image.")] = False,
    window: options.Window = "full",
    seed: options.Seed = 0,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Crop around masks, and at the same place of paired images, which a column pair of the CSV names."""
    from camseg.prepare.rois import RoiSettings, prepare_rois

    settings = RoiSettings(
        per=per,
        padding=_percents(padding),
        min_area=min_area,
        negative=negative,
        mirror=mirror,
        window=window,
        seed=seed,
    )
    report = prepare_rois(images, masks, out, settings, console.folder_options(workers, overwrite, dry_run))
    _finish(report, out, json, dry_run)


@prepare.command()
def slices(
    volumes: Annotated[Path, typer.Argument(metavar="VOLUMES", help="Folder of NIfTI volumes, or one.")],
    out: options.Out,
    labels: Annotated[
        Path | None, typer.Option(metavar="LABELS", help="Label volumes of the same names.", show_default=False)
    ] = None,
    label_class: Annotated[
        list[str],
        typer.Option(
            "--class",
            metavar="NAME[=VALUES]",
            help="Class whose object has these label values, such as tumour=1,4; default: all but 0 (repeats).",
        ),
    ] = ["positive"],  # noqa: B006 (typer copies it)
    negative: NegativeName = "negative",
    min_area: MinPixels = 1,
    axis: Annotated[Literal["axial", "coronal", "sagittal"], typer.Option(help="What the slices are.")] = "axial",
    window: Annotated[
        str,
        typer.Option(metavar="percentile|full|LOW,HIGH", help="Which values of the volume become black and white."),
    ] = "percentile",
    channel: Annotated[
        int | None, typer.Option(min=0, help="Which volume of 4D files, from 0.", show_default=False)
    ] = None,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Leave out slices of a single grey.")] = False,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Cut NIfTI volumes, and label volumes, into slices and masks (needs camseg[nifti])."""
    from camseg.prepare.slices import SliceSettings, prepare_slices

    settings = SliceSettings(
        axis=axis,
        window=window,
        channel=channel,
        classes=_classes(label_class),
        negative=negative,
        min_area=min_area,
        skip_empty=skip_empty,
    )
    folder = console.folder_options(workers, overwrite, dry_run)
    report = prepare_slices(volumes, out, settings, labels=labels, options=folder)
    _finish(report, out, json, dry_run)


@prepare.command()
def dicom(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of DICOM files, or one.")],
    out: options.Out,
    window: Annotated[
        str,
        typer.Option(
            metavar="file|percentile|full|LOW,HIGH",
            help="Which values become black and white; file: as the file says, else percentile.",
        ),
    ] = "file",
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="Write patients' IDs and file names as they are, not as hashes.")
    ] = False,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Turn DICOM files into images as a viewer shows them (needs camseg[dicom])."""
    from camseg.prepare.dicom import DicomSettings, prepare_dicom

    settings = DicomSettings(window=window, keep_ids=keep_ids)
    report = prepare_dicom(folder, out, settings, console.folder_options(workers, overwrite, dry_run))
    _finish(report, out, json, dry_run)


@prepare.command()
def frames(
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="Folder of videos, or one.")],
    out: options.Out,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Take every N-th frame.")] = 1,
    fps: Annotated[
        float | None, typer.Option(help="Instead, take so many frames per second.", show_default=False)
    ] = None,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Take frames out of videos."""
    from camseg.prepare.frames import FrameSettings, prepare_frames

    settings = FrameSettings(every=every, fps=fps)
    report = prepare_frames(videos, out, settings, console.folder_options(workers, overwrite, dry_run))
    _finish(report, out, json, dry_run)


def _finish(report: "Report", out: Path, as_json: bool, dry_run: bool) -> None:
    """Say what became of the inputs; exit with 1 when some failed."""
    labels = out / "labels.csv"
    if as_json:
        facts = {"out": str(out), "planned": report.planned} if dry_run else {"out": str(out), "labels": str(labels)}
        counts = {"done": report.done, "images": report.images, "skipped": report.skipped, "failed": report.failed}
        console.print_json({**facts, **counts})
    elif dry_run:
        console.say(f"would write the images of {report.planned} inputs: {out}")
    else:
        console.say(f"{report.images} images of {report.done} inputs, {len(report.failed)} failed: {labels}")
        for reason, count in sorted(report.skipped.items()):
            console.say(f"left out: {count} {reason}")
    if report.failed:
        raise typer.Exit(1)


def _percents(text: str) -> tuple[float, float]:
    numbers = options.numbers(text)
    if len(numbers) != 2:
        raise typer.BadParameter(f"expected two percentages, such as 10,30; got {text!r}")
    return numbers[0] / 100, numbers[1] / 100


def _classes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The label values of each class, from NAME or NAME=VALUES; a usage error for anything else."""
    classes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if name in classes:
            raise typer.BadParameter(f"expected each class once, such as {name}=1,4; got {name!r} again")
        try:
            classes[name] = tuple(int(value) for value in values.split(",")) if equals else ()
        except ValueError:
            raise typer.BadParameter(f"expected NAME or NAME=VALUES, such as tumour=1,4; got {text!r}") from None
    return classes
