"""``camseg prepare``: its commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camseg.cli import console, fields, options
from camseg.prepare.settings import DicomSettings, FrameSettings, RoiSettings, SliceSettings
from camseg.runs.settings import FolderOptions

if TYPE_CHECKING:
    from camseg.prepare.output import PreparationReport

prepare = typer.Typer(
    name="prepare",
    help="Make image folders with a labels.csv out of masked images, volumes, DICOM files and videos.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@prepare.command()
@fields.command
def rois(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="Folder of images, one image, or CSV image[,label][,pair][,group].")
    ],
    masks: Annotated[Path, typer.Option(metavar="MASKS", help="Folder of masks at the images' paths.")],
    out: options.Out,
    settings: RoiSettings,
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Crop around masks, and at the same place of paired images, which a column pair of the CSV names."""
    from camseg.prepare.rois import prepare_rois

    report = prepare_rois(images, masks, out, settings, console.attached(folder))
    _finish(report, out, json, folder.dry_run)


@prepare.command()
@fields.command
def slices(
    volumes: Annotated[Path, typer.Argument(metavar="VOLUMES", help="Folder of NIfTI volumes, or one.")],
    out: options.Out,
    settings: Annotated[SliceSettings, fields.Spelled({"classes": "label_class"})],
    folder: FolderOptions,
    labels: Annotated[Path | None, typer.Option(metavar="LABELS", help="Label volumes of the same names.")] = None,
    json: options.Json = False,
) -> None:
    """Cut NIfTI volumes, and label volumes, into slices and masks (needs camseg[nifti])."""
    from camseg.prepare.slices import prepare_slices

    report = prepare_slices(volumes, out, settings, labels=labels, options=console.attached(folder))
    _finish(report, out, json, folder.dry_run)


@prepare.command()
@fields.command
def dicom(
    files: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of DICOM files, or one.")],
    out: options.Out,
    settings: DicomSettings,
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Turn DICOM files into images as a viewer shows them (needs camseg[dicom])."""
    from camseg.prepare.dicom import prepare_dicom

    report = prepare_dicom(files, out, settings, console.attached(folder))
    _finish(report, out, json, folder.dry_run)


@prepare.command()
@fields.command
def frames(
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="Folder of videos, or one.")],
    out: options.Out,
    settings: FrameSettings,
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Take frames out of videos."""
    from camseg.prepare.frames import prepare_frames

    report = prepare_frames(videos, out, settings, console.attached(folder))
    _finish(report, out, json, folder.dry_run)


def _finish(report: "PreparationReport", out: Path, as_json: bool, dry_run: bool) -> None:
    """Say what became of the inputs; exit with 1 when some failed."""
    labels = out / "labels.csv"
    if as_json:
        facts = {"out": str(out), "planned": report.planned} if dry_run else {"out": str(out), "labels": str(labels)}
        counts = {"done": report.done, "images": report.images, "skipped": report.skipped, "noted": report.noted}
        console.print_json({**facts, **counts, "failed": report.failed})
    elif dry_run:
        console.say(f"would write the images of {report.planned} inputs: {out}")
    else:
        console.say(f"{report.images} images of {report.done} inputs, {len(report.failed)} failed: {labels}")
        for reason, count in sorted(report.skipped.items()):
            console.say(f"left out: {count} {reason}")
        for reason, count in sorted(report.noted.items()):
            console.say(f"note: {count} {reason}")
    if report.failed:
        raise typer.Exit(1)
