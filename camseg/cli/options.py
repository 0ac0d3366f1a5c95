"""The words that commands share beside the fields of settings: each is said once, here."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.base.addresses import parse_place
from camseg.cli.places import Location
from camseg.runs.settings import FolderOptions

ImagesArgument = Annotated[
    Path, typer.Argument(metavar="IMAGES", help="Folder of images, one image file, or CSV image[,label[,group]].")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the outputs.", show_default=False)]
ImagesPlace = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGES",
        parser=parse_place,
        help="Folder of images, one image file, or CSV image[,label[,group]]; or its address, such as "
        "s3://bucket/images.",
    ),
    Location(),
]
OutPlace = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        parser=parse_place,
        help="Folder for the outputs, or its address.",
        show_default=False,
    ),
    Location(written=True),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE,...", help="Work side by side on these: cuda:0,cuda:1, or cpu:2 for two processes on the CPU."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
_SAID = {name: info.description for name, info in FolderOptions.__pydantic_fields__.items()}  # type: ignore[attr-defined]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=_SAID["overwrite"])]
DryRun = Annotated[bool, typer.Option("--dry-run", help=_SAID["dry_run"])]
OutputStride = Annotated[
    int | None,
    typer.Option(
        metavar="8|16|32",
        help="Input pixels per step of the last map, where the network leaves the choice: 16 instead of 32 makes its "
        "maps twice as wide and high.",
        show_default=False,
    ),
]
Window = Annotated[
    str, typer.Option(metavar="full|percentile|LOW,HIGH", help="How 16-bit and float images become 8-bit.")
]
