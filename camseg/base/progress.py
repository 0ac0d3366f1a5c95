"""How long work tells a caller how far it is: the library itself never prints."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Progress: TypeAlias = Callable[[Iterable[Any], int, str], Iterator[Any]]
"""``progress(items, total, title)`` yields the items unchanged; the command line's draws a bar meanwhile."""
Say: TypeAlias = Callable[[str], None]
"""Takes one line meant for the person who waits."""


def silent(items: Iterable[Any], _total: int, _title: str) -> Iterator[Any]:
    """The Progress that shows nothing."""
    return iter(items)


def unheard(_line: str) -> None:
    """The Say that says nothing."""
