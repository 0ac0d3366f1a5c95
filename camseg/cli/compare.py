"""``camseg compare``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from camseg.cli import console, options


def compare(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled images as for train-cls: to train and validate on.")
    ],
    models: Annotated[
        str,
        typer.Option(
            metavar="A,B,...", help="Architectures by name, as in train-cls; or folders of runs, ensembles too."
        ),
    ],
    out: options.Out,
    methods: Annotated[
        str, typer.Option(metavar="X,Y,...", help="CAM methods, as camseg methods lists them; or all.")
    ] = "layercam",
    test: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Test images, for every score; else split off from DATA.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of true masks, of the same relative paths as DATA's images.")
    ] = None,
    test_masks: Annotated[Path | None, typer.Option(help="The same for the images of --test.")] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Share split off for the test, above 0; default: the recipe's, else 0.2.")
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the rest split off for validation; default: the recipe's.")
    ] = None,
    negative: options.Negative = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Training recipe, as in train-cls.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|none|FILE",
            help="Where trainings start; default imagenet where there are such weights. Models that a file does not "
            "fit start from scratch.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs of each training.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the inputs of all that is trained; default: each model's own.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="full|percentile|LOW,HIGH",
            help="How 16-bit and float images become 8-bit for all that is trained; default full. Runs have their own.",
        ),
    ] = None,
    layer: options.Layers = ["auto"],  # noqa: B006 (typer copies it)
    scales: options.Scales = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Also look at mirrored images and average.")] = False,
    score: Annotated[
        Literal["class", "margin"], typer.Option(help="The class's score, or its margin over the best negative class.")
    ] = "class",
    score_channels: Annotated[
        int | None,
        typer.Option(min=1, help="Channels that scorecam tries, those that vary most; default: all."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per pass of the network.")] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that augment images; default 0: the main one.")
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Compare classifiers and CAM methods in one table; what an interrupted call finished is kept."""
    from camseg.cams.extract import CamSettings
    from camseg.studies.compare import compare_models

    given = {
        "test_fraction": test_fraction,
        "val_fraction": val_fraction,
        "negative": tuple(negative) if negative else None,
        "weights": weights,
        "epochs": epochs,
        "image_size": image_size,
        "window": window,
        "batch_size": batch_size,
        "workers": workers,
    }
    found = compare_models(
        [name.strip() for name in models.split(",") if name.strip()],
        data,
        out,
        test=test,
        masks=masks,
        test_masks=test_masks,
        recipe=recipe,
        changes={"seed": seed, **{name: value for name, value in given.items() if value is not None}},
        cams=CamSettings(
            methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
            scales=options.scales(scales),
            flip=flip,
            score=score,
            layers=tuple(layer),
            score_channels=score_channels,
        ),
        device=device,
        overwrite=overwrite,
        progress=console.progress,
        say=console.say,
    )
    if json:
        console.print_json(found.to_dict())
        return
    console.print_table(*found.model_table(), title=f"{found.measure} by model and method")
    console.print_table(*found.cell_table())
    console.say(" ".join(found.notes))
    console.say(f"tables and plot: {out}")
