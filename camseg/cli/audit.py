"""``camseg audit``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, options


def audit(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN... DATA", help="Classifier runs; last a folder of class folders, or a CSV."),
    ],
    out: options.Out,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of true masks, of the same relative paths as the images.")
    ] = None,
    method: Annotated[str, typer.Option(help="CAM method, as camseg methods lists them.")] = "layercam",
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs of each training.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Repeats of each training, each with a split of its own.")] = 3,
    val_fraction: Annotated[float, typer.Option(help="Share split off, by label and never through a group.")] = 0.2,
    weights: Annotated[
        str, typer.Option(metavar="none|imagenet|FILE", help="Where trainings start; none: from scratch.")
    ] = "none",
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", help="The rate at the start.")] = 1e-3,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the inputs of what is trained; default: the run's.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the insertion and deletion curves.")] = 50,
    filtered: Annotated[bool, typer.Option("--filtered", help="Keep the filtered images.")] = False,
    batch_size: options.BatchSize = 16,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Find out what classifiers look at: train them anew on images that show only that, or all but the objects."""
    from camseg.studies.audit import AuditSettings, audit_runs

    *runs, data = inputs
    settings = AuditSettings(
        method=method,
        epochs=epochs,
        seeds=seeds,
        seed=seed,
        val_fraction=val_fraction,
        batch_size=batch_size,
        learning_rate=learning_rate,
        image_size=image_size,
        weights=options.optional(weights),
        steps=steps,
    )
    found = audit_runs(
        runs,
        data,
        out,
        masks=masks,
        settings=settings,
        keep_filtered=filtered,
        device=device,
        overwrite=overwrite,
        progress=console.progress,
        say=console.say,
    )
    if json:
        console.print_json(found.to_dict())
    else:
        console.print_table(*found.accuracy_table(), title="validation accuracy of networks trained anew")
        console.print_table(*found.measure_table(), title="measures of the maps")
        console.say(f"{found.note}\ntables{' and plot' if masks else ''}: {out}")
