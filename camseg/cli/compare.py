"""``camseg compare``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options
from camseg.data.mask_settings import MaskReading
from camseg.studies.settings import CompareSettings
from camseg.train.settings import Training

SETTINGS = fields.Spelled({"cams.methods": "methods", "cams.raw": ""})
OWN = ("data", "val", "test_fraction", "samples_sha256", "recipe", "model", "model_args", "weights_sha256")
"""What trainings have and a comparison says itself."""
TRAINING = fields.Spelled(dict.fromkeys(OWN, ""), given=Training)


@fields.command
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
    settings: Annotated[CompareSettings, SETTINGS],
    training: Annotated[fields.Given, TRAINING],
    reading: MaskReading,
    test: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Test images, for every score; else split off from DATA.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of true masks, of the same relative paths as DATA's images.")
    ] = None,
    test_masks: Annotated[Path | None, typer.Option(help="The same for the images of --test.")] = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Compare classifiers and CAM methods in one table; what an interrupted call finished is kept."""
    from camseg.studies.compare import compare_models

    learning = training.pop("settings", {})
    found = compare_models(
        [name.strip() for name in models.split(",") if name.strip()],
        data,
        out,
        settings,
        test=test,
        masks=masks,
        test_masks=test_masks,
        reading=reading,
        changes={**training, **learning},
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
