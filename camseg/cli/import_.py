"""``camseg import``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import camseg
from camseg.cli import console, fields, options
from camseg.exchange.registry import IMPORTERS
from camseg.exchange.settings import ExportInputs, ImportSettings

if TYPE_CHECKING:
    from camseg.exchange.importing import ImportReport


@fields.command
def import_(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="What label, segment, refine or masks wrote; or a folder of masks.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What the tool wrote: a file, a zip or a folder.")],
    name: Annotated[str, typer.Option("--format", metavar="NAME", help=f"{', '.join(IMPORTERS)}.")],
    inputs: ExportInputs,
    settings: ImportSettings,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Bring in what people corrected in another tool; a repeated import passes over what is there."""
    report = camseg.import_corrections(
        folder, file, name, settings, inputs, dry_run=dry_run, progress=console.progress, say=console.say
    )
    _finish(report, folder, json, dry_run)


def _finish(report: "ImportReport", folder: Path, as_json: bool, dry_run: bool) -> None:
    """Say what was brought in; exit with 1 when something was refused."""
    if as_json:
        counts = {"images": report.images, "decisions": report.decisions, "kept": report.kept, "unseen": report.unseen}
        refused = {"left_out": report.left_out, "stale": report.stale, "failed": report.failed}
        summary = None if report.summary is None else report.summary.to_dict()
        console.print_json({"out": str(folder), **counts, **refused, "summary": summary, "seconds": report.seconds})
    else:
        done = "would bring in" if dry_run else "brought in"
        said = ", ".join(f"{count} {decision}" for decision, count in sorted(report.decisions.items())) or "none"
        console.say(
            f"{done} {report.decisions.total()} corrections ({said}) of {report.images} images, {report.kept} were "
            f"there already, in {report.seconds:.1f} s: {folder}"
        )
        if report.unseen:
            console.say(
                f"{report.unseen} masks came back as they were, and nothing says that a person looked at them; if one "
                "did, --unchanged accepted"
            )
        for kind, count in sorted(report.left_out.items()):
            console.say(f"left out: {count} shapes of the kind {kind}, which are no masks")
        if report.summary is not None:
            console.say(report.summary.line())
    if report.failed or report.stale:
        console.say(f"{len(report.failed)} images failed, {len(report.stale)} corrections were refused")
        raise typer.Exit(1)
