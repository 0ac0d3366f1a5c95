"""Settings: frozen dataclasses whose fields state an option once, with its type, range, default and help.

The command line, ``--config`` files, ``run.json``, the validation and the documentation all read them from there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from functools import wraps
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticUndefined
from typing_extensions import dataclass_transform

from camseg.base.errors import CamsegError, InputError

T = TypeVar("T")

_CONFIG = ConfigDict(
    use_attribute_docstrings=True,
    extra="forbid",
    allow_inf_nan=False,
    arbitrary_types_allowed=True,
)


@plain_dataclass(frozen=True)
class Option:
    """How the command line spells a field, where that does not follow from its name and type."""

    metavar: str | None = None
    """What stands for the value in the help."""
    flags: tuple[str, ...] = ()
    """The flags, instead of the one made from the field's name."""
    default: str | None = None
    """What stands for the default in the help, where it depends on the machine."""
    hidden: bool = False
    """Whether the command line leaves it out: only Python sets it."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field, field))
def settings(cls: type[T]) -> type[T]:
    """Make a class of annotated fields, a docstring under each, a frozen keyword-only dataclass that checks itself.

    Values are converted where that loses nothing (a list to a tuple, the text of a threshold to the threshold). What
    cannot be, is out of its range or has another name raises InputError, which says what was expected and what came.
    """
    made: Any = dataclass(cls, frozen=True, kw_only=True, config=_CONFIG)
    unworded = made.__init__

    @wraps(unworded)
    def checked(self: Any, *given: Any, **named: Any) -> None:
        try:
            unworded(self, *given, **named)
        except ValidationError as error:
            raise InputError(_words(made, error)) from None

    made.__init__ = checked
    done: type[T] = made
    return done


def to_json(value: Any) -> dict[str, Any]:
    """Settings as JSON values, from which ``from_json`` makes equal ones."""
    values: dict[str, Any] = _adapter(type(value)).dump_python(value, mode="json")
    return values


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Settings of a class from JSON values by field; those that are left out get their defaults. Raises InputError.

    Of settings within it too: what is left out there is as in the default of the field that holds them, which may
    differ from that of their class.
    """
    try:
        made: T = _adapter(kind).validate_python(_completed(kind, values))
    except ValidationError as error:
        raise InputError(_words(kind, error)) from None
    return made


def _completed(kind: Any, values: Mapping[str, Any], default: Any = None) -> dict[str, Any]:
    """The values with those of ``default`` where they are left out, and so within; None: there is no default."""
    completed = {} if default is None else to_json(default)
    for name, given in values.items():
        info = getattr(kind, "__pydantic_fields__", {}).get(name)
        if info is not None and hasattr(info.annotation, "__pydantic_fields__") and isinstance(given, Mapping):
            within = info.get_default(call_default_factory=True) if default is None else getattr(default, name)
            given = _completed(info.annotation, given, None if within is PydanticUndefined else within)
        completed[name] = given
    return completed


def checked(parse: Callable[[Any], T]) -> Callable[[Any], T]:
    """A parser that raises CamsegErrors, as a validator of a field: its message stays as it is."""

    @wraps(parse)
    def validate(value: Any) -> T:
        try:
            return parse(value)
        except InputError:
            raise
        except CamsegError as error:
            raise InputError(str(error)) from None
        except (AttributeError, TypeError):
            if isinstance(value, str):
                raise
            raise InputError(f"expected a text; got {value!r}") from None

    return validate


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _words(kind: type, error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    problems = error.errors(include_url=False)
    first = problems[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        return str(cause)
    place = _fields(kind, [str(part) for part in first["loc"]])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = ", ".join(getattr(kind, "__pydantic_fields__", {}))
        return f"unknown setting {first['loc'][-1]!r}; choose among {known}"
    if "missing" in first["type"]:
        return f"missing setting {str(first['loc'][-1])!r}, which has no default"
    name = field_words(place) or kind.__name__
    # A field of several types fails once for each of them.
    same = [one for one in problems if one["loc"][:1] == first["loc"][:1]]
    same = [one for one in same if one["type"] != "too_short"] or same  # which follows from values that are none
    wanted = list(dict.fromkeys(_expectation(one["type"], one["msg"], one.get("ctx", {})) for one in same))
    return f"expected {name}: {' or '.join(wanted)}; got {same[0]['input']!r}"


def field_words(place: Sequence[str]) -> str:
    """What errors call a field: ``cams.score channels``."""
    return ".".join(place).replace("_", " ")


_WANTED: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "several values",
    "list": "several values",
    "dict": "values by name",
    "mapping": "values by name",
    "dataclass": "settings by name",
    "path": "a path",
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
}
"""In words, what errors of pydantic expected, by their kind or the type that it begins with."""


def _expectation(kind: str, message: str, facts: Mapping[str, Any]) -> str:
    words = _WANTED.get(kind) or _WANTED.get(kind.partition("_")[0])
    if words is not None:
        return words.format(**{name: f"{fact:g}" if isinstance(fact, float) else fact for name, fact in facts.items()})
    for start in ("Input should be a valid ", "Input should be ", "Value error, "):
        message = message.removeprefix(start)
    return message[:1].lower() + message[1:]


def _fields(kind: Any, place: Sequence[str]) -> list[str]:
    """The part of an error's place that names fields; behind it pydantic says which of several types it tried."""
    if not place or place[0] not in getattr(kind, "__pydantic_fields__", {}):
        return []
    return [place[0], *_fields(kind.__pydantic_fields__[place[0]].annotation, place[1:])]
