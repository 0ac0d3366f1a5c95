"""``camseg train-cls``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from camseg.cli import console, options


def train_cls(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of class folders, or CSV image,label[,group].")],
    out: options.Out,
    val: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Validation images; else split off from DATA.")
    ] = None,
    val_fraction: Annotated[float, typer.Option(help="Share split off, by label and never through a group.")] = 0.2,
    negative: Annotated[list[str] | None, typer.Option(metavar="CLASS", help="Class without object (repeats).")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="timm architecture; default: the weights' own, else mobilenetv2_100."),
    ] = None,
    model_arg: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the architecture (repeats).")
    ] = None,
    weights: Annotated[str, typer.Option(metavar="imagenet|none|FILE", help="Where training starts.")] = "imagenet",
    mean: Annotated[str | None, typer.Option(help="Mean of the inputs, in [0, 1]; default: the weights' own.")] = None,
    std: Annotated[str | None, typer.Option(help="Deviation of the inputs; default: the weights' own.")] = None,
    image_size: Annotated[int, typer.Option(help="Side of the network's input, pixels.")] = 224,
    resize: Annotated[
        Literal["stretch", "pad"], typer.Option(help="Stretch to the square, or keep the aspect ratio.")
    ] = "stretch",
    window: options.Window = "full",
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    warmup_epochs: Annotated[
        int | None, typer.Option(help="Epochs with a frozen backbone; default 1, or 0 from scratch.")
    ] = None,
    patience: Annotated[int, typer.Option(help="Epochs without progress before training stops; 0: never.")] = 8,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", help="AdamW's rate at the start.")] = 1e-3,
    class_weights: Annotated[bool, typer.Option(help="Let rare classes count as much as frequent ones.")] = True,
    augment: Annotated[bool, typer.Option(help="Change training images at random.")] = True,
    mixed_precision: Annotated[
        Literal["auto", "no", "fp16", "bf16"], typer.Option(help="auto: half precision on GPUs.")
    ] = "auto",
    batch_size: options.BatchSize = 16,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that augment images; 0: the main one.")] = 0,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a classifier from image-level labels; an interrupted training continues when it is started again."""
    import torch
    from accelerate import Accelerator

    from camseg.augmentation import NONE, Augmentation
    from camseg.classifier import Classifier
    from camseg.datasets import load_training_data, split
    from camseg.folders import check_apart
    from camseg.training import TrainSettings, train_classifier

    dataset = load_training_data(data)
    check_apart(dataset, out)
    train, held = split(dataset, val_fraction, seed) if val is None else (dataset, load_training_data(val))
    settings = TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        seed=seed,
        workers=workers,
        warmup_epochs=warmup_epochs if warmup_epochs is not None else int(weights != "none"),
        class_weights=class_weights,
        augmentation=Augmentation() if augment else NONE,
        mixed_precision=mixed_precision,
    )
    torch.manual_seed(seed)
    classifier = Classifier.create(
        model,
        classes=dataset.classes,
        image_size=image_size,
        weights=weights,
        multi_label=dataset.multi_label,
        negative=negative or (),
        resize=resize,
        window=window,
        mean=options.numbers(mean),
        std=options.numbers(std),
        model_args=options.pairs(model_arg or ()),
    )
    speaks = Accelerator().is_main_process  # the first of those that accelerate launched
    if speaks:
        sizes = f"{len(train.samples)} training and {len(held.samples)} validation images"
        console.say(f"{classifier.arch}: {sizes} of {', '.join(dataset.classes)}")
    if dry_run and json and speaks:
        console.print_json({"out": str(out), "model": classifier.arch, "classes": dataset.classes})
    if not dry_run:
        metrics = train_classifier(
            classifier,
            train,
            held,
            out,
            settings,
            device=device,
            overwrite=overwrite,
            progress=console.progress,
            say=console.say,
        )
        if speaks:
            console.finish_training(metrics, out, json)
