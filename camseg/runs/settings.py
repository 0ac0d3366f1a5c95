"""How a folder is worked through."""

import os
from typing import Annotated

from pydantic import Field

from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.settings import Option, settings


@settings
class FolderOptions:
    """How a folder is worked through; none of these changes a result."""

    workers: Annotated[int, Field(ge=1), Option(default="one per core, at most 8")] = Field(
        default_factory=lambda: min(8, os.cpu_count() or 1)
    )
    """Images that are read, refined and written at once; results do not depend on it."""
    overwrite: Annotated[bool, Option(flags=("--overwrite",))] = False
    """Remove what an earlier run wrote to --out first, instead of continuing it."""
    dry_run: Annotated[bool, Option(flags=("--dry-run",))] = False
    """Check everything and say what would be done; write nothing."""
    progress: Annotated[Progress, Option(hidden=True)] = silent
    """Shows how far the work is."""
    say: Annotated[Say, Option(hidden=True)] = unheard
    """Hears of every failed input."""
