"""``camseg train-seg``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.base.settings import to_json
from camseg.cli import console, fields, options
from camseg.data.settings import NONE, Augmentation
from camseg.train.recipes import SEGMENTER_RECIPES
from camseg.train.settings import SegmenterTraining

OWN = ("data", "recipe", "samples_sha256", "weights_sha256")
"""What a training has and the options do not say of it."""
TRAINING = fields.Spelled({"model_args": "model_arg", **dict.fromkeys(OWN, "")}, given=SegmenterTraining)


@fields.command
def train_seg(
    out: options.Out,
    training: Annotated[fields.Given, TRAINING],
    images: Annotated[
        Path | None,
        typer.Argument(
            metavar="IMAGES",
            help="Folder of images, or CSV image[,label[,group]]; only with --like it may be left out.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"How a paper trained: {', '.join(SEGMENTER_RECIPES)}. Other options come before it.",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Train as this run was trained, but for what other options change."),
    ] = None,
    augment: Annotated[
        bool | None,
        typer.Option("--augment/--no-augment", help="Start from all ranges of --augmentation, or from none at all."),
    ] = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a segmentation network from masks, true ones or what label made; an interrupted training continues.

    The defaults are those of the recipe default; other recipes, and the run of --like, have their own.
    """
    from camseg.train.processes import started_together
    from camseg.train.segmenter_plan import (
        plan_segmenter_training,
        prepare_segmenter_training,
        run_segmenter_training,
        try_segmenter_training,
    )

    learning = training.pop("settings", {})
    changes = {**training, **learning}
    if augment is not None:
        ranges = to_json(Augmentation() if augment else NONE)
        changes["augmentation"] = ranges | changes.get("augmentation", {})
    plan = plan_segmenter_training(images, recipe=recipe, like=like, changes=changes)
    prepared, processes = prepare_segmenter_training(plan, out), started_together()
    if processes.first:
        console.introduce_segmenter(prepared)
        if dry_run and json:
            facts = {"out": str(out), "model": prepared.segmenter.arch, "classes": list(prepared.segmenter.classes)}
            console.print_json({**facts, "training": to_json(prepared.training)})
    if dry_run:
        if processes.first:
            console.finish_dry_training(try_segmenter_training(prepared, out, device=device, overwrite=overwrite))
        return
    metrics = run_segmenter_training(
        prepared, out, device=device, overwrite=overwrite, progress=console.progress, say=console.say
    )
    processes.part()
    if processes.first:
        console.finish_segmenter(metrics, out, json)
