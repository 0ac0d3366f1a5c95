"""``camseg models``."""

from dataclasses import asdict
from typing import Annotated

import typer

from camseg.cli import console, options
from camseg.models.segmenters.registry import DECODERS


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Networks to tell of, such as resnet18 or unet+resnet18; else all."),
    ] = None,
    json: options.Json = False,
) -> None:
    """List what --model can name, classifiers and segmentation networks: parameters, size of inputs, paper."""
    from camseg.models.heads import HEADS, POOLINGS
    from camseg.models.listing import find_models, list_models

    found = find_models(names) if names else list_models()
    if json:
        console.print_json([asdict(one) for one in found])
        return
    heads, decoders = ", ".join([*HEADS, *POOLINGS]), ", ".join(DECODERS)
    titles = {
        "classifier": f"For train-cls: these, and all others of timm. Heads are joined with +: {heads}.",
        "segmentation": f"For train-seg: these, and DECODER+ENCODER with any encoder of timm. Decoders: {decoders}.",
    }
    for kind, title in titles.items():
        if rows := [one for one in found if one.kind == kind]:
            console.print_table(
                (kind, "parameters", "input", "paper"),
                (
                    (
                        one.name,
                        "-" if one.parameters is None else f"{one.parameters:,}",
                        f"{one.image_size}",
                        one.paper or "-",
                    )
                    for one in rows
                ),
                title,
            )
