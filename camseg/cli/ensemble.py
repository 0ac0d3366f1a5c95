"""``camseg ensemble``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options
from camseg.studies.settings import EnsembleSettings


@fields.command
def ensemble(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Classifier runs that train-cls wrote; one is enough for logistic and svm."
        ),
    ],
    out: options.Out,
    settings: EnsembleSettings,
    data: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Labelled images as for train-cls: to fit and to evaluate on.")
    ] = None,
    val: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Validation images; else split off from --data.")
    ] = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Join classifiers into one run, which other commands take as any classifier; its map is their maps' mean."""
    from camseg.studies.ensembles import make_ensemble, read_parts

    train, held = read_parts(settings, out, data=data, val=val)
    for line in dict.fromkeys(line for part in (train, held) if part is not None for line in part.remarks):
        console.say(f"note: {line}")
    metrics = make_ensemble(
        runs,
        out,
        settings,
        train=train,
        val=held,
        device=device,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=console.progress,
        say=console.say,
    )
    if not metrics:
        count = f"{len(runs)} {'classifier' if len(runs) == 1 else 'classifiers'}"
        console.say(f"{'would join' if dry_run else 'joined'} {count}: {out}")
        if json:
            console.print_json({"out": str(out), "members": [str(run) for run in runs]})
        return
    if not json:
        rows = [
            (one["run"], *(f"{one[key]:.3f}" for key in ("share", "accuracy", "macro_f1")))
            for one in metrics["members"]
        ]
        console.print_table(("member", "share", "accuracy", "macro-F1"), rows)
    console.finish_training(metrics, out, json)
