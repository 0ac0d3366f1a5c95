"""``camseg review``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.base.extras import require
from camseg.cli import console, fields, options
from camseg.review.settings import ReviewSettings


@fields.command
def review(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="What label, segment or refine wrote.")],
    settings: ReviewSettings,
    images: Annotated[
        Path | None, typer.Option(help="Folder or CSV of the images; default: where run.json says.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Open the page on which people accept, adjust and reject masks; on this machine alone."""
    for library in ("starlette", "uvicorn"):
        require(library, "review", "the page")
    from camseg.review.progress import times_table
    from camseg.review.server.serve import review_folder

    times = review_folder(folder, settings, images=images, say=console.say)
    if json:
        console.print_json(times)
    else:
        console.print_table(*times_table(times), title=f"{times['reviewed']} of {times['masks']} masks decided on")
