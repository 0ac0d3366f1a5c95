"""Arguments of commands that may be addresses: what a command gets is the folder that stands for it here."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from camseg.base.addresses import origin
from camseg.base.errors import CamsegError
from camseg.cli import console
from camseg.runs.settings import Placement


@dataclass(frozen=True)
class Location:
    """Beside a path in ``Annotated``, with ``parse_place`` as its parser: it may be an address."""

    written: bool = False
    """Whether the command writes there."""


@contextmanager
def at_hand(
    values: Mapping[str, Any], places: Mapping[str, Location], placement: Placement | None
) -> Iterator[dict[str, Any]]:
    """Within it, the values of a command with folders of this machine for addresses, which messages go on to name.

    ``places``: the parameters that may be addresses.
    """
    found = dict(values)
    names: dict[str, str] = {}
    with ExitStack() as stack:
        for parameter, place in places.items():
            address = values[parameter]
            if not isinstance(address, str):
                continue
            # Only they know what an address is made of, and load what it takes.
            if place.written:
                from camseg.runs.sending import OutputMirror

                shard = None if placement is None else placement.shard
                mirror = stack.enter_context(OutputMirror(address, shard=shard, say=console.say))
                stack.enter_context(console.told_after(mirror.send))
                found[parameter] = mirror.folder
            else:
                from camseg.runs.mirrors import mirror_images

                found[parameter] = mirror_images(address, cache=None if placement is None else placement.cache)
            folder = found[parameter] if found[parameter].is_dir() else found[parameter].parent
            names[str(folder)] = origin(folder) or ""
        try:
            with console.naming(names):
                yield found
        except CamsegError as error:
            error.args = (console.named(str(error), names),)
            raise
