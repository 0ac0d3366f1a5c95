"""Settings -> options: what settings classes state, spelled out for typer.

A parameter of a command whose type is a settings class becomes one option per field. An option that is left out
takes the value of ``--config FILE``, else the field's default.
"""

import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from camseg.base.allocation import keep_freed_memory
from camseg.base.errors import InputError, OtherSettingsError, OutputError
from camseg.base.settings import Option, field_words, from_json
from camseg.cli.places import Location, at_hand
from camseg.runs.settings import Placement

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML or JSON file of options, by name or as in the run.json of an earlier run, which is one; what the "
        "command line says comes before it.",
        show_default=False,
    ),
]

Given: TypeAlias = dict[str, Any]
"""Values by field, nested like the settings: only those that somebody gave."""


@dataclass(frozen=True)
class Spelled:
    """Beside a settings class in ``Annotated``: how its fields are spelled, or that only what was given is wanted."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Options by the path of the field, such as ``refinement.method``; "" leaves a field out."""
    given: type | None = None
    """With the type ``Given``: the settings class whose fields are meant."""


_GROUPS: Mapping[str, str] = {
    "ClassifierOptions": "Classifier",
    "LookedIntoOptions": "Network",
    "CamSettings": "Maps",
    "PropagateSettings": "Propagation",
    "MaskSettings": "Masks",
    "TrimapSettings": "Trimap",
    "RefineSettings": "Refinement",
    "CleaningSettings": "Masks, cleaned",
    "ExportInputs": "Input",
    "ExportSettings": "Export",
    "ImportSettings": "Import",
    "QualitySettings": "Quality",
    "ReviewSettings": "Review",
    "ReportSettings": "Report",
    "MaskReading": "Masks that hold classes",
    "LabelSettings": "Output",
    "FolderOptions": "Output",
    "Placement": "Several calls or devices",
    "Training": "Data and network",
    "TrainSettings": "Training",
    "SegmenterTraining": "Data and network",
    "SegmenterSettings": "Training",
    "StudentSettings": "Student",
    "SegmenterOptions": "Segmenter",
    "ViewSettings": "Maps",
    "SegmentSettings": "Output",
    "Augmentation": "Augmentation",
}
"""What options are grouped under in the help, by the settings class that states them; others stand first."""


@dataclass(frozen=True)
class _Leaf:
    """One field that is one option."""

    path: tuple[str, ...]
    name: str
    info: FieldInfo
    default: Any
    description: str
    group: str | None

    @property
    def option(self) -> Option:
        """What the field says of its spelling; of an optional one what its type says."""
        inner = (note for one in get_args(self.info.annotation) for note in getattr(one, "__metadata__", ()))
        return next((one for one in (*self.info.metadata, *inner) if isinstance(one, Option)), Option())

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return next(iter(self.option.flags), f"--{self.name.replace('_', '-')}")


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of its settings; they are made and checked before it runs."""
    signature = inspect.signature(function, eval_str=True)
    plain: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, bool, list[_Leaf]]] = {}
    for parameter in signature.parameters.values():
        kind, spelled = _settings_class(parameter.annotation)
        if kind is None:
            plain.append(parameter)
        else:
            groups[parameter.name] = kind, spelled.given is not None, list(_leaves(kind, spelled.names))
    places = {one.name: note for one in plain for note in get_args(one.annotation) if isinstance(note, Location)}
    leaves = {leaf.name: leaf for _, _, group in groups.values() for leaf in group if leaf.name}
    options = [_parameter(leaf) for leaf in leaves.values() if not leaf.option.hidden]
    if groups:
        options.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config))
    # Required ones first, as Python wants them; the flags and the rest come last, as in the function.
    required = [one for one in plain if one.default is inspect.Parameter.empty]
    flags = [one for one in plain if one.default is not inspect.Parameter.empty]
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*required, *options, *flags)]

    def run(**values: Any) -> None:
        values = {name: _at_home(value) for name, value in values.items()}
        file = _read_config(values.pop("config", None)) if groups else {}
        used: set[str] = set()
        made = {}
        for name, (kind, only_given, group) in groups.items():
            given: Given = {}
            for leaf in group:
                # What a command leaves out may stand in the run.json of an earlier run, and says nothing here.
                used |= _take(file, leaf, given if leaf.name else {})
                value = values.pop(leaf.name, None)
                if value is not None and value != []:
                    _put(given, leaf.path, _value(leaf, value))
            try:
                made[name] = given if only_given else _make(kind, given, group)
            except InputError as error:
                raise InputError(_by_options(str(error), group)) from None
        # What stands below an option that takes several values belongs to it.
        if unknown := sorted(
            name for name in _names(file) if not any(f"{name}.".startswith(f"{one}.") for one in used)
        ):
            raise InputError(
                f"the --config file has {unknown[0]!r}, which is no option here; there are {_known(leaves)}"
            )
        keep_freed_memory()
        placement = next((one for one in made.values() if isinstance(one, Placement)), None)
        with at_hand(values, places, placement) as found:
            try:
                function(**found, **made)
            except OtherSettingsError as error:
                raise OutputError(error.worded(lambda setting: _spelling(setting, leaves))) from None
            except InputError as error:  # what was given was made settings there
                later = [leaf for _, only_given, group in groups.values() if only_given for leaf in group]
                raise InputError(_by_options(str(error), later)) from None

    run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _at_home(value: Any) -> Any:
    """What names a path below ``~`` with the home folder in its place: no shell expands ``--out=~/x``, or a file."""
    if isinstance(value, dict):
        return {name: _at_home(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))
    # Texts that may be a file, such as a threshold: no class or method is called so.
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def _spelling(setting: str, leaves: Mapping[str, _Leaf]) -> str:
    """The option of a setting, by its place in a run's identity: the stage or the bundle, then the field."""
    for place in (setting, setting.partition(".")[2]):
        for leaf in leaves.values():
            if ".".join(leaf.path) == place and not leaf.option.hidden:
                return leaf.flag
    return setting.replace("_", " ")


def numbers(text: str, option: str = "", words: Sequence[str] = ()) -> tuple[float, ...]:
    """Comma-separated numbers of an option, which also takes ``words``; a usage error for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        start, end = option and f"{option}: ", "".join(f", or {word}" for word in words)
        expected = f"{start}expected numbers separated by commas, such as 1,1.5,2{end}"
        raise typer.BadParameter(f"{expected}; got {text!r}") from None


def pairs(texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE arguments, values as JSON where they are it (3, true), else as text; else a usage error."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key.isidentifier() or not equals:
            raise typer.BadParameter(f"expected KEY=VALUE, such as pad_type=same; got {text!r}")
        try:
            found[key] = json.loads(value)
        except (ValueError, RecursionError):
            found[key] = value
    return found


def _settings_class(annotation: Any) -> tuple[type | None, Spelled]:
    spelled = Spelled()
    if get_origin(annotation) is Annotated:
        annotation, *notes = get_args(annotation)
        spelled = next((note for note in notes if isinstance(note, Spelled)), spelled)
        annotation = spelled.given or annotation
    return (annotation if hasattr(annotation, "__pydantic_fields__") else None), spelled


def _leaves(kind: Any, names: Mapping[str, str], above: tuple[str, ...] = (), default: Any = None) -> Iterator[_Leaf]:
    """The fields of a settings class that are options, those of settings within it included."""
    for name, info in kind.__pydantic_fields__.items():
        path = (*above, name)
        value = info.get_default(call_default_factory=True) if default is None else getattr(default, name)
        spelling = names.get(".".join(path), _singular(name, info))
        leaf = _Leaf(path, spelling, info, value, _description(kind, name), _GROUPS.get(kind.__name__))
        if hasattr(info.annotation, "__pydantic_fields__") and leaf.option.metavar is None:
            yield from _leaves(info.annotation, names, path, value)
        else:
            yield leaf


def _description(kind: Any, name: str) -> str:
    """The docstring under a field, in the class or in the one that it has the field from."""
    fields = (getattr(base, "__pydantic_fields__", {}).get(name) for base in kind.__mro__)
    return next((info.description for info in fields if info is not None and info.description), "")


def _singular(name: str, info: FieldInfo) -> str:
    """Fields of several texts are options that repeat, and called like one of them: methods, --method."""
    return name.removesuffix("s") if _repeats(info) else name


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types that a field may have, None aside."""
    many = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    bare = (get_args(one)[0] if get_origin(one) is Annotated else one for one in many)
    return tuple(one for one in bare if one is not type(None))


def _is_pairs(info: FieldInfo) -> bool:
    kind = _members(info.annotation)[0]
    return get_origin(kind) in (dict, Mapping) or hasattr(kind, "__pydantic_fields__")


def _elements(info: FieldInfo) -> tuple[Any, ...]:
    """Of what type the elements of a field of several values are; empty for other fields."""
    many = (get_args(one)[0] for one in _members(info.annotation) if get_origin(one) is tuple)
    return tuple(one for inner in many for one in _members(inner))


def _repeats(info: FieldInfo) -> bool:
    """Whether the option is given once for each value; numbers stand in one text, with commas between."""
    return any(kind not in (int, float) for kind in _elements(info))


def _parameter(leaf: _Leaf) -> inspect.Parameter:
    members = _members(leaf.info.annotation)
    kind: Any = members[0] if len(members) == 1 else str
    if all(get_origin(one) is Literal for one in members):
        kind = Literal[tuple(word for one in members for word in get_args(one))]
    if _repeats(leaf.info) or _is_pairs(leaf.info):
        kind = list[str]
    elif kind not in (bool, int, float, Path) and get_origin(kind) is not Literal:
        kind = str
    long = leaf.name.replace("_", "-")
    flags = leaf.option.flags or ((f"--{long}/--no-{long}",) if kind is bool else (f"--{long}",))
    metavar = leaf.option.metavar or ("KEY=VALUE" if _is_pairs(leaf.info) else _METAVARS.get(kind))
    option = typer.Option(*flags, metavar=metavar, help=_help(leaf), show_default=False, rich_help_panel=leaf.group)
    return inspect.Parameter(
        leaf.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


_METAVARS: Mapping[Any, str] = {str: "TEXT", list[str]: "TEXT", int: "INTEGER", float: "NUMBER"}


def _help(leaf: _Leaf) -> str:
    text = " ".join(leaf.description.split()).replace("``", "")
    if _repeats(leaf.info) or _is_pairs(leaf.info):
        text = f"{text.removesuffix('.')} (repeats)."
    shown = "" if leaf.info.is_required() else leaf.option.default or _shown(leaf.default)
    return f"{text} [required]" if leaf.info.is_required() else f"{text} [default: {shown}]" if shown else text


def _shown(value: Any) -> str:
    """A default as the command line would take it."""
    if value is PydanticUndefined or value is None or value is False or value == () or isinstance(value, dict):
        return ""
    if hasattr(value, "__pydantic_fields__"):
        return ""
    if isinstance(value, tuple):
        return ",".join(_shown(one) for one in value)
    return "on" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _value(leaf: _Leaf, value: Any) -> Any:
    """What the command line gave, as the field takes it."""
    if _is_pairs(leaf.info):
        return pairs(value)
    words = [word for one in _members(leaf.info.annotation) for word in _words(one)]
    if _elements(leaf.info) and isinstance(value, str) and value not in words:
        return list(numbers(value, leaf.flag, words))
    return value


def _words(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors may begin it with a mark
        content = _toml().loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid {'TOML' if path.suffix.lower() == '.toml' else 'JSON'} ({error})"
        ) from None
    if isinstance(content, dict) and "schema_version" in content:
        content = content.get("settings")
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected options by name, or a run.json of camseg")
    found: dict[str, Any] = _at_home(content)
    return found


def _toml() -> Any:
    try:
        return importlib.import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10
        return importlib.import_module("tomli")


def _take(file: Mapping[str, Any], leaf: _Leaf, given: Given) -> set[str]:
    """Put what the file says of an option, by its name or by its place, and return what was read."""
    spellings = sorted({leaf.name, leaf.name.replace("_", "-")} & set(file))
    if len(spellings) > 1:
        raise InputError(f"expected {leaf.flag} once; got both {' and '.join(spellings)}")
    for name in spellings:
        if not (isinstance(file[name], dict) and len(leaf.path) > 1 and leaf.path[0] == name):
            _put(given, leaf.path, file[name])
            return {name}
    value: Any = file
    for part in leaf.path:
        if not isinstance(value, dict) or part not in value:
            return set()
        value = value[part]
    _put(given, leaf.path, value)
    return {".".join(leaf.path)}


def _names(file: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in file.items():
        yield from _names(value, f"{above}{name}.") if isinstance(value, dict) and value else (f"{above}{name}",)


def _known(leaves: Mapping[str, _Leaf]) -> str:
    return ", ".join(name.replace("_", "-") for name, leaf in leaves.items() if not leaf.option.hidden)


def _put(values: Given, path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def _by_options(message: str, group: Sequence[_Leaf]) -> str:
    """What settings say of a field, said of its option."""
    for leaf in group:
        for place in (leaf.path, leaf.path[-1:]):
            start = f"expected {field_words(place)}:"
            if leaf.name and not leaf.option.hidden and message.startswith(start):
                return f"expected {leaf.flag}:{message.removeprefix(start)}"
    return message


def _make(kind: Any, given: Given, group: Sequence[_Leaf]) -> Any:
    """The settings: their defaults, but for what was given."""
    for name, info in kind.__pydantic_fields__.items():
        if info.is_required() and name not in given:
            leaf = next(one for one in group if one.path == (name,))
            kind_of = leaf.option.metavar or leaf.name.upper()
            raise InputError(f"missing option {leaf.flag} {kind_of}: {' '.join(leaf.description.split())}")
    return from_json(kind, given)
