"""``camseg export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.data.mask_settings import MaskReading
from camseg.exchange.registry import EXPORTERS
from camseg.exchange.settings import ExportInputs, ExportSettings

if TYPE_CHECKING:
    from camseg.exchange.output import ExportReport


@fields.command
def export(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="What label, segment, refine or masks wrote; or a folder of masks.")
    ],
    name: Annotated[str, typer.Option("--format", metavar="NAME", help=f"{', '.join(EXPORTERS)}.")],
    out: options.Out,
    inputs: ExportInputs,
    settings: ExportSettings,
    reading: MaskReading,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Write masks for the tools where people correct them or train with them."""
    report = camseg.export_folder(
        folder,
        out,
        name,
        settings,
        inputs,
        reading=reading,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=console.progress,
        say=console.say,
    )
    _finish(report, out, json, dry_run)


def _finish(report: "ExportReport", out: Path, as_json: bool, dry_run: bool) -> None:
    """Say what was written; exit with 1 when images failed."""
    if as_json:
        facts = {"out": str(out), "images": report.images, "masks": report.masks, "empty": report.empty}
        losses = {"polygon_iou": report.polygon_iou, "polygon_iou_worst": report.polygon_iou_worst}
        reasons = {"left_out": report.left_out, "failed": report.failed, "warnings": report.warnings}
        console.print_json({**facts, "classes": report.classes, **losses, **reasons, "seconds": report.seconds})
    else:
        done = "would write" if dry_run else "wrote"
        masks = "" if dry_run else f" and {report.masks} masks ({report.empty} images without an object)"
        console.say(f"{done} {report.images} images{masks} in {report.seconds:.1f} s: {out}")
        for reason, count in sorted(report.left_out.items()):
            console.say(f"left out: {count} images {reason}")
        if report.polygon_iou is not None and report.polygon_iou_worst is not None:
            mean, worst = report.polygon_iou, report.polygon_iou_worst
            console.say(f"IoU of the polygons with the masks: {mean:.4f} on average, {worst:.4f} at worst")
        for warning in report.warnings:
            console.say(f"note: {warning}")
    if report.failed:
        raise typer.Exit(1)
