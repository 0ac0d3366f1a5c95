"""``camseg train-cls``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from camseg.base.errors import InputError
from camseg.base.settings import to_json
from camseg.cli import console, fields, options
from camseg.data.settings import NONE, Augmentation
from camseg.train.recipes import RECIPES
from camseg.train.settings import MemberSettings, Training

OWN = ("data", "recipe", "samples_sha256", "weights_sha256")
"""What a training has and the options do not say of it."""
TRAINING = fields.Spelled({"model_args": "model_arg", **dict.fromkeys(OWN, "")}, given=Training)


@fields.command
def train_cls(
    out: options.Out,
    training: Annotated[fields.Given, TRAINING],
    members: MemberSettings,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help="Folder of class folders, or CSV image,label[,group]; only with --like it may be left out.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"How a paper trained: {', '.join(RECIPES)}. Other options come before it."),
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
    devices: options.Devices = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a classifier from image-level labels; an interrupted training continues when it is started again.

    The defaults are those of the recipe default; other recipes, and the run of --like, have their own.
    """
    from camseg.train.members import plan_members, prepare_members, train_members, try_members
    from camseg.train.plan import plan_training, prepare_training, run_training, try_training
    from camseg.train.processes import started_together

    learning = training.pop("settings", {})
    changes = {**training, **learning}
    if augment is not None:
        ranges = to_json(Augmentation() if augment else NONE)
        changes["augmentation"] = ranges | changes.get("augmentation", {})
    plan, several = plan_training(data, recipe=recipe, like=like, changes=changes), members.count > 1
    if devices and not several:
        raise InputError("--devices trains several members side by side; give --folds or --seeds too, or use torchrun")
    prepared = prepare_members(plan_members(plan, members), out) if several else [prepare_training(plan, out)]
    processes = started_together()
    if processes.first:
        console.introduce_training(prepared)
        if dry_run and json:
            classifier, trainings = prepared[0].classifier, [to_json(one.training) for one in prepared]
            facts = {"out": str(out), "model": classifier.arch, "classes": list(classifier.classes)}
            console.print_json({**facts, **({"members": trainings} if several else {"training": trainings[0]})})
    if dry_run:
        if processes.first:
            attempt = partial(try_members, prepared, devices=devices) if several else partial(try_training, prepared[0])
            console.finish_dry_training(attempt(out, device=device, overwrite=overwrite))
        return
    train = (
        partial(train_members, prepared, weights=members.member_weights, devices=devices)
        if several
        else partial(run_training, prepared[0])
    )
    metrics = train(out, device=device, overwrite=overwrite, progress=console.progress, say=console.say)
    processes.part()
    if processes.first:
        console.finish_training(metrics, out, json)
