"""``camseg train-cls``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from camseg.cli import console, options


def train_cls(
    out: options.Out,
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
        typer.Option(
            metavar="NAME",
            help="default, or a paper's: guan-loew, laptev, med-ic, brain-mri. Other options come before it.",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Train as this run was trained, but for what other options change."),
    ] = None,
    val: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Validation images; else split off from DATA.")
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share split off, by label and never through a group; default 0.2.")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Share split off before that and only scored at the end; default 0.")
    ] = None,
    negative: Annotated[list[str] | None, typer.Option(metavar="CLASS", help="Class without object (repeats).")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="timm's or a paper's architecture, such as ResNet50V2, with heads joined if wanted, such as "
            "mobilenetv2_100+mab+sbr; default: the weights' own, else mobilenetv2_100.",
        ),
    ] = None,
    model_arg: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the architecture (repeats).")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|none|FILE",
            help="Where training starts; default imagenet, or none for architectures without such weights.",
        ),
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Mean of the inputs, in [0, 1]; default: the weights' own.")] = None,
    std: Annotated[str | None, typer.Option(help="Deviation of the inputs; default: the weights' own.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the network's input, pixels; default 224, or what Med-IC wants, 28.")
    ] = None,
    resize: Annotated[
        Literal["stretch", "pad"] | None,
        typer.Option(help="Stretch to the square (default), or pad it to keep the aspect ratio."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="full|percentile|LOW,HIGH", help="How 16-bit and float images become 8-bit; default full."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs to run; default 20.")] = None,
    trainable: Annotated[
        Literal["all", "last-stages", "head"] | None,
        typer.Option(help="What learns: all (default), a third of the backbone and the head, or the head alone."),
    ] = None,
    warmup_epochs: Annotated[
        int | None, typer.Option(help="Epochs with a frozen backbone; default 1, or 0 from scratch.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without progress before training stops; 0: never; default 8.")
    ] = None,
    plateau_patience: Annotated[
        int | None, typer.Option(help="Epochs without progress before the rate falls; 0: never; default 2.")
    ] = None,
    optimizer: Annotated[Literal["adamw", "adam"] | None, typer.Option(help="Default adamw.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Rate at the start; default 0.001.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay; default 0.01.")] = None,
    averaging: Annotated[
        float | None, typer.Option(help="Decay of the weights' running average; 0: none; default 0.98.")
    ] = None,
    balance: Annotated[
        Literal["weights", "sampling", "none"] | None,
        typer.Option(help="Let rare classes count more: weigh the loss (default), or draw their images more often."),
    ] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment/--no-augment", help="Change training images at random; default: do.")
    ] = None,
    augmentation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Range of a change: rotation=20 (degrees), zoom=0.25, shift=0.1, mirror=true, brightness=0.15, "
            "contrast=0.3 (repeats).",
        ),
    ] = None,
    mixed_precision: Annotated[
        Literal["auto", "no", "fp16", "bf16"] | None, typer.Option(help="auto (default): half precision on GPUs.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per pass of the network.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Start of all random choices.")] = None,
    device: options.Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that augment images; default 0: the main one.")
    ] = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a classifier from image-level labels; an interrupted training continues when it is started again.

    The defaults below are those of the recipe default, whose batches are of 16 images.
    """
    from dataclasses import asdict

    from camseg.data.settings import NONE, Augmentation
    from camseg.train.plan import plan_training, prepare_training, run_training
    from camseg.train.processes import started_together

    ranges = {} if augment is None else asdict(Augmentation() if augment else NONE)
    given = {
        "val": val,
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
        "negative": tuple(negative) if negative else None,
        "model": model,
        "model_args": options.pairs(model_arg) if model_arg else None,
        "weights": weights,
        "mean": options.numbers(mean) or None,
        "std": options.numbers(std) or None,
        "image_size": image_size,
        "resize": resize,
        "window": window,
        "epochs": epochs,
        "trainable": trainable,
        "warmup_epochs": warmup_epochs,
        "patience": patience,
        "plateau_patience": plateau_patience,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "averaging": averaging,
        "balance": balance,
        "augmentation": {**ranges, **options.pairs(augmentation or ())} or None,
        "mixed_precision": mixed_precision,
        "batch_size": batch_size,
        "seed": seed,
        "workers": workers,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    training = plan_training(data, recipe=recipe, like=like, changes=changes)
    prepared = prepare_training(training, out)
    classifier = prepared.classifier
    speaks = started_together().first
    if speaks:
        sizes = f"{len(prepared.train.samples)} training and {len(prepared.val.samples)} validation images"
        start = "from scratch" if training.weights == "none" else f"from {training.weights}"
        console.say(f"{classifier.arch} {start}: {sizes} of {', '.join(classifier.classes)}")
    if dry_run and json and speaks:
        facts = {"out": str(out), "model": classifier.arch, "classes": list(classifier.classes)}
        console.print_json({**facts, "training": asdict(prepared.training)})
    if not dry_run:
        metrics = run_training(
            prepared, out, device=device, overwrite=overwrite, progress=console.progress, say=console.say
        )
        if speaks:
            console.finish_training(metrics, out, json)
