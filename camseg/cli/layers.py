"""``camseg layers``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options


@fields.command
def layers(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Classifier run that train-cls wrote.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Every module with a map, not only the network's outline.")
    ] = False,
    output_stride: options.OutputStride = None,
    json: options.Json = False,
) -> None:
    """List what --layer can name, with the size of the maps, and which of them auto and stages stand for."""
    from camseg.cams.layers import list_layers, stage_layers
    from camseg.classify.checkpoint import load_network

    classifier = load_network(run)
    if output_stride is not None:
        classifier = classifier.with_output_stride(output_stride)
    side, found = classifier.image_size, list_layers(classifier)
    stages = stage_layers(found)
    shown = [layer for layer in found if everything or layer.stage or layer.name in stages]
    if json:
        facts = {"arch": classifier.arch, "image_size": side, "auto": stages[-1] if stages else None}
        keys = ("name", "channels", "height", "width")
        rows = [{key: getattr(layer, key) for key in keys} for layer in shown]
        console.print_json({**facts, "stages": list(stages), "layers": rows})
        return
    marks = {layer.name: "no score reads it" for layer in found if not layer.speaks}
    marks |= dict.fromkeys(stages, "stages") | dict.fromkeys(stages[-1:], "auto, stages")
    console.print_table(
        ("layer", "channels", "map", "note"),
        (
            (layer.name, str(layer.channels), f"{layer.height} x {layer.width}", marks.get(layer.name, ""))
            for layer in shown
        ),
        f"{classifier.arch}, inputs of {side} x {side} pixels",
    )
