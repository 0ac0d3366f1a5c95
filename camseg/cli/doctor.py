"""``camseg doctor``."""

from typing import Annotated

import typer

from camseg.base.settings import to_json
from camseg.cli import console, options


def doctor(
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", envvar="RAY_ADDRESS", help="Also ask whether Ray answers here.", show_default=False
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Try what this installation can do: Python, libraries, devices, extras, weights, caches; a line for each."""
    import camseg

    found = []
    for one in camseg.check_installation(ray_address=ray_address):
        found.append(one)
        if not json:
            remedy = f"; {one.remedy}" if one.remedy else ""
            console.print_line(f"{one.status:8}{one.what:18}{one.detail}{remedy}")
    if json:
        console.print_json([to_json(one) for one in found])
    if any(one.status == "broken" for one in found):
        raise typer.Exit(1)
