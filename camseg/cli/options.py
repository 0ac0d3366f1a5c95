"""The vocabulary that commands share: each option is said once, here."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from camseg.propagation.settings import Settings as PropagationSettings

ImagesArgument = Annotated[
    Path, typer.Argument(metavar="IMAGES", help="Folder of images, one image file, or CSV image[,label[,group]].")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the outputs.", show_default=False)]
ClassifierRun = Annotated[
    Path, typer.Option("--classifier", "-c", metavar="RUN", help="Classifier run that train-cls wrote.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Start of all random choices.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images that are read, refined and written at once; results do not depend on it. Default: one per core, "
        "at most 8.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per pass of the network.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove what an earlier run wrote to --out first.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done; write nothing.")]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="label, predicted, all, or a CLASS (repeats). Default: the label where known, else predicted.",
        show_default=False,
    ),
]
Negative = Annotated[
    list[str] | None,
    typer.Option("--negative", metavar="CLASS", help="Class without object, instead of the run's own (repeats)."),
]
Layers = Annotated[
    list[str],
    typer.Option(
        "--layer",
        help="Layer of the network, as camseg layers lists them (repeats: maps are fused); auto: the last one; "
        "stages: that and the last with a finer map.",
    ),
]
OutputStride = Annotated[
    int | None,
    typer.Option(
        metavar="8|16|32",
        help="Input pixels per step of the last map, where the network leaves the choice: 16 instead of 32 makes its "
        "maps twice as wide and high.",
        show_default=False,
    ),
]
Precision = Annotated[
    Literal["float32", "bf16", "fp16"],
    typer.Option(help="Numbers that the network calculates with up to the layer."),
]
Scales = Annotated[
    str,
    typer.Option(
        help="Input sizes relative to the classifier's, such as 1,1.5,2; auto weighs several by the object's size."
    ),
]
Open = Annotated[
    str, typer.Option("--open", metavar="RADIUS", help="Opening: leave undecided what is thinner than twice this.")
]
Close = Annotated[
    str, typer.Option("--close", metavar="RADIUS", help="Closing: fill what is narrower than twice this.")
]
Dilate = Annotated[
    str, typer.Option(metavar="RADIUS", help="Unknown band outwards, in pixels (5) or of the object's width (20%).")
]
Erode = Annotated[
    str, typer.Option(metavar="RADIUS", help="Unknown band inwards, in pixels (5) or of the object's width (20%).")
]
Smooth = Annotated[
    str, typer.Option(metavar="RADIUS", help="Smooth the outline: in pixels (3) or of the shorter side (1%).")
]
FillHoles = Annotated[
    str, typer.Option(metavar="none|all|AREA", help="Fill holes: all, or up to an area in pixels (50) or % (0.1%).")
]
MinArea = Annotated[
    str, typer.Option(metavar="AREA", help="Drop smaller islands: pixels (50) or % of the image (0.1%).")
]
Keep = Annotated[int | None, typer.Option(min=1, help="Keep the largest N objects.", show_default=False)]
RefinerWeights = Annotated[
    Path | None, typer.Option(help="Weights of the refiner fba: .pth or .safetensors.", show_default=False)
]
Window = Annotated[
    str, typer.Option(metavar="full|percentile|LOW,HIGH", help="How 16-bit and float images become 8-bit.")
]
TrimapRecipe = Annotated[
    Literal["fitted", "published"],
    typer.Option(help="fitted to each object by the options here, or published: that of Laptev and Gerget."),
]
Sure = Annotated[
    str, typer.Option(metavar="THRESHOLD|none", help="Foreground in any case: where the mask's map lies above this.")
]
Low = Annotated[
    str | None, typer.Option(metavar="THRESHOLD", help="With --high: trimap from the map; below this is background.")
]
High = Annotated[str | None, typer.Option(metavar="THRESHOLD", help="Above this is foreground.")]


def scales(text: str) -> tuple[float, ...] | Literal["auto"]:
    """``auto``, or comma-separated numbers; a usage error for anything else."""
    return "auto" if text == "auto" else numbers(text)


def numbers(text: str | None) -> tuple[float, ...]:
    """Comma-separated numbers, none for None; a usage error for anything else."""
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, such as 1,1.5,2; got {text!r}") from None


def optional(text: str) -> str | None:
    """None for ``none``."""
    return None if text == "none" else text


def propagation_settings(method: str, texts: Sequence[str] | None) -> "PropagationSettings | None":
    """The settings that KEY=VALUE arguments make of a propagator's defaults; None for none."""
    from camseg.propagation.propagate import make_settings

    return make_settings(method, pairs(texts)) if texts else None


def pairs(texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE arguments, values as JSON where they are it (3, true), else as text; else a usage error."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key.isidentifier() or not equals:
            raise typer.BadParameter(f"expected KEY=VALUE, such as pad_type=same; got {text!r}")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
