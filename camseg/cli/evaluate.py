"""``camseg evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options
from camseg.data.mask_settings import MaskReading
from camseg.measure.settings import EvaluateSettings


@fields.command
def evaluate(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="Folder of one method's maps, or of masks.")
    ],
    masks: Annotated[
        Path,
        typer.Option(
            help="Folder of true masks, of the same relative paths; or an output folder, for the masks in it that a "
            "person accepted or corrected."
        ),
    ],
    settings: EvaluateSettings,
    reading: MaskReading,
    save_threshold: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the threshold that is best on these masks.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What these masks are called in that file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Plot Dice and IoU over the 256 thresholds.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure maps or masks against true masks: mean-Dice, Dice, IoU, precision, recall, accuracy."""
    from camseg.data.images import write_image
    from camseg.measure.evaluate import evaluate_folder
    from camseg.measure.evaluate_report import evaluation_note, evaluation_plot, evaluation_table, save_best_threshold
    from camseg.runs.output import prediction_root

    if save_threshold and not name:
        raise typer.BadParameter("--save-threshold needs --name, to say later which masks chose it")
    found = evaluate_folder(
        prediction_root(predictions),
        masks,
        thresholds=settings.thresholds,
        reading=reading,
        draw=settings.draw,
        seed=settings.seed,
        corrected=settings.corrected,
        progress=console.progress,
    )
    if save_threshold and name:
        save_best_threshold(save_threshold, found, name=name)
    if plot:
        write_image(plot, evaluation_plot(found))
    for warning in found.warnings:
        console.say(f"note: {warning}")
    if found.corrections is not None:
        console.say(found.corrections.line())
    if json:
        console.print_json(found.to_dict())
    else:
        title = f"{found.predictions} against {found.masks}\n{evaluation_note(found)}"
        console.print_table(*evaluation_table(found), title=title)
