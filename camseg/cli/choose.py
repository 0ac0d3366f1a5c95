"""``camseg choose``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options
from camseg.studies.settings import ChooseSettings

SPELLED = fields.Spelled({"cams.raw": ""})


@fields.command
def choose(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... IMAGES", help="Classifier runs, at least two; last a folder of images, or a CSV."
        ),
    ],
    settings: Annotated[ChooseSettings, SPELLED],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write the result there, as JSON.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for what is computed of each run and image: after a stop the same command goes on from there.",
        ),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Rank runs and settings without true masks: by agreement, and by objects planted into images without one."""
    from camseg.base.errors import OutputError
    from camseg.base.files import check_can_write, write_json
    from camseg.studies.choose import choose_runs

    if out is not None:
        if out.is_dir():
            raise OutputError(f"expected a file to write to, got the folder {out}; choose another --out")
        check_can_write(out.parent)
    *runs, images = inputs
    found = choose_runs(runs, images, settings, cache=cache, device=device, progress=console.progress, say=console.say)
    if out is not None:
        write_json(out, found.to_dict())
    if json:
        console.print_json(found.to_dict())
    else:
        console.print_table(*found.table(), title="runs by mean rank, without true masks")
        console.say(" ".join(found.notes))
        print(f"best: {found.label(found.best)}")
    if found.failed:
        raise typer.Exit(1)
