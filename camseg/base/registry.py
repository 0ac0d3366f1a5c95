"""Registries: literal dicts of named methods, listed without loading what a method needs."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from camseg.base.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A named method and what a user wants to know before choosing it."""

    function: str
    """``module:name`` of the function below ``camseg``, loaded when it is first used."""
    paper: str
    """Where it was published."""

    def load(self) -> Callable[..., Any]:
        """The function."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(f"camseg.{module}"), name)
        return function


def choose(kind: str, name: str, choices: Mapping[str, T]) -> T:
    """What a name stands for; raises InputError, with the choices, for a name that is none of them."""
    if name not in choices:
        raise InputError(f"unknown {kind} {name!r}; choose among {', '.join(choices)}")
    return choices[name]
