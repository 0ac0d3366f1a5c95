"""``camseg layers``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camseg.base.errors import InputError
from camseg.cli import console, fields, options

if TYPE_CHECKING:
    from camseg.classify.classifier import Classifier
    from camseg.segment.segmenter import Segmenter


@fields.command
def layers(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run that train-cls or train-seg wrote.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Every module with a map, not only the network's outline.")
    ] = False,
    output_stride: options.OutputStride = None,
    json: options.Json = False,
) -> None:
    """List what --layer can name, with the size of the maps, and which of them auto and stages stand for."""
    from camseg.cams.layers import find_stages, list_layers, stage_layers
    from camseg.segment.segmenter import Segmenter

    classifier = _opened(run, output_stride)
    segments = isinstance(classifier, Segmenter)
    side, found = classifier.image_size, list_layers(classifier)
    stages = find_stages(classifier) if segments else stage_layers(found)
    shown = [layer for layer in found if everything or layer.stage or layer.name in stages]
    if json:
        facts = {"arch": classifier.arch, "image_size": side, "auto": stages[-1] if stages else None}
        keys = ("name", "channels", "height", "width")
        rows = [{key: getattr(layer, key) for key in keys} for layer in shown]
        console.print_json({**facts, "stages": list(stages), "layers": rows})
        return
    marks = {layer.name: "no score reads it" for layer in found if not layer.speaks}
    words = ("stages, last-decoder", "auto, stages, bottleneck") if segments else ("stages", "auto, stages")
    marks |= dict(zip(stages[::-1], words[::-1], strict=False))
    console.print_table(
        ("layer", "channels", "map", "note"),
        (
            (layer.name, str(layer.channels), f"{layer.height} x {layer.width}", marks.get(layer.name, ""))
            for layer in shown
        ),
        f"{classifier.arch}, inputs of {side} x {side} pixels",
    )


def _opened(run: Path, output_stride: int | None) -> "Classifier | Segmenter":
    from camseg.classify.checkpoint import load_network
    from camseg.segment.checkpoint import is_segmenter_run, load_segmenter

    if not is_segmenter_run(run):
        classifier = load_network(run)
        return classifier if output_stride is None else classifier.with_output_stride(output_stride)
    if output_stride is not None:
        raise InputError("a segmenter is built for its decoder; leave the output stride out")
    return load_segmenter(run)
