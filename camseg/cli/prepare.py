"""Make image folders with a labels.csv out of masked images, volumes, DICOM files and videos."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camseg.cli import console, fields, options
from camseg.cli.help import Group
from camseg.data.mask_settings import MaskReading
from camseg.prepare.settings import DicomSettings, FrameSettings, RoiInputs, RoiSettings, SliceInputs, SliceSettings
from camseg.runs.settings import FolderOptions

if TYPE_CHECKING:
    from camseg.prepare.output import PreparationReport

prepare = typer.Typer(
    name="prepare",
    cls=Group,
    add_completion=False,
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@prepare.command()
@fields.command
def rois(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="Folder of images, one image, or CSV image[,label][,pair][,group].")
    ],
    out: options.Out,
    beside: RoiInputs,
    settings: RoiSettings,
    reading: MaskReading,
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Crop around masks, and at the same place of paired images, which a column pair of the CSV names."""
    from camseg.prepare.rois import prepare_rois

    report = prepare_rois(images, beside.masks, out, settings, console.attached(folder), reading=reading)
    _finish(report, out, json, folder.dry_run)


@prepare.command()
@fields.command
def slices(
    volumes: Annotated[Path, typer.Argument(metavar="VOLUMES", help="Folder of NIfTI volumes, or one.")],
    out: options.Out,
    beside: SliceInputs,
    settings: Annotated[SliceSettings, fields.Spelled({"classes": "label_class"})],
    folder: FolderOptions,
    json: options.Json = False,
) -> None:
    """Cut NIfTI volumes, and label volumes, into slices and masks (needs camseg[nifti])."""
    from camseg.prepare.slices import prepare_slices

    report = prepare_slices(volumes, out, settings, labels=beside.labels, options=console.attached(folder))
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
    """Say what became of the inputs; exit with 1 when some failed or nothing was written."""
    labels = out / "labels.csv"
    kept = f", {report.kept} were there already" if report.kept else ""
    if as_json:
        facts = {"out": str(out), "planned": report.planned} if dry_run else {"out": str(out), "labels": str(labels)}
        counts = {"done": report.done, "kept": report.kept, "images": report.images}
        reasons = {"skipped": report.skipped, "noted": report.noted, "failed": report.failed}
        console.print_json({**facts, **counts, **reasons})
    elif dry_run:
        console.say(f"would write the images of {report.planned} inputs{kept}: {out}")
    else:
        inputs = report.done + report.kept
        console.say(f"{report.images} images of {inputs} inputs{kept}, {len(report.failed)} failed: {labels}")
        for reason, count in sorted(report.skipped.items()):
            console.say(f"left out: {count} {reason}")
        for reason, count in sorted(report.noted.items()):
            console.say(f"note: {count} {reason}")
        if not report.images and not report.failed:
            console.say("nothing was written: all images were left out")
    if report.failed or not (report.images or dry_run):
        raise typer.Exit(1)
