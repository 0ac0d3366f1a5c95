"""What is said of a set of images before work on it begins: the one list, for every command that reads images."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from camseg.base.errors import CamsegError
from camseg.data.datasets import Dataset
from camseg.data.images import Window, passed_over_line, squeezed
from camseg.data.opening import count_frames

_PAGED: Final = frozenset([".apng", ".avif", ".avifs", ".gif", ".tif", ".tiff", ".webp"])
_LOOKED_AT: Final = 64
"""Files that are opened to see whether they hold several pages."""


def data_remarks(dataset: Dataset, window: Window = "full") -> list[str]:
    """Lines on how the images were read, what was passed over, and what is lost of them; each is one plain sentence.

    window: how 16-bit and float images become 8-bit; only ``full`` can squeeze them.
    """
    paths = [sample.path for sample in dataset.samples]
    lines = [*dataset.remarks, passed_over_line(dataset.passed_over), stacks_line(paths)]
    if window == "full":
        lines.append(squeezed(paths))
    return [line for line in lines if line]


def stacks_line(paths: Sequence[Path]) -> str | None:
    """A line where files hold several pages, of which the first is read; by some of them, None where they do not."""
    several = [path for path in paths if path.suffix.lower() in _PAGED]
    looked_at = several[:: max(1, len(several) // _LOOKED_AT)]
    stacks = {path: count for path in looked_at if (count := _frames(path)) > 1}
    if not stacks:
        return None
    first, count = next(iter(stacks.items()))
    return (
        f"{len(stacks)} of {len(looked_at)} files hold several pages, of which the first is read, such as {first} with "
        f"{count}; save the pages as files to use the others"
    )


def unreadable(paths: Iterable[Path]) -> dict[Path, str]:
    """The images that are missing, empty or no images, with the reason, by their first bytes.

    A file that is cut short further on is found only when it is read.
    """
    found: dict[Path, str] = {}
    for path in paths:
        try:
            count_frames(path)
        except CamsegError as error:
            found[path] = str(error)
    return found


def _frames(path: Path) -> int:
    try:
        return count_frames(path)
    except CamsegError:  # told where it is read
        return 1
