"""The one way to import a library that only an extra of camseg installs."""

import importlib
from typing import Any

from camseg.base.errors import InputError, first_line


class MissingLibraryError(InputError):
    """A library of an extra cannot be imported."""


def require(module: str, extra: str, use: str) -> Any:
    """Import a module for a use, such as "--engine ray".

    Raises MissingLibraryError that says what needs which library, and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise MissingLibraryError(
            f"{use} needs {library} ({first_line(error)}); pip install 'camseg[{extra}]'"
        ) from None
