"""Write the pages that the code itself says best.

``docs/commands.md`` comes from the command line, ``docs/python.md`` from signatures and docstrings,
``docs/manifest.md`` from the record's JSON schema, ``docs/models.md`` from the registries of networks, and the picture
of the imports in ``docs/architecture.md`` from the import statements. A test holds all of them equal to this.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from typer.models import ArgumentInfo, ParameterInfo

import camseg
from camseg.cli import commands
from camseg.cli.help import EXAMPLES, GENERAL
from camseg.models.listing import ModelFacts, list_models
from camseg.models.segmenters.registry import DECODERS, SEGMENTERS
from camseg.runs.record import schema

DOCS = Path(__file__).parent
PACKAGE = Path(camseg.__file__).parent
WIDTH = 100
BEGIN, END = "<!-- imports: begin -->\n", "<!-- imports: end -->"


def pages() -> dict[Path, str]:
    """The text of every generated page."""
    architecture = DOCS / "architecture.md"
    before, _, rest = architecture.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        DOCS / "commands.md": commands_page(),
        DOCS / "python.md": python_page(),
        DOCS / "manifest.md": manifest_page(),
        DOCS / "models.md": models_page(),
        architecture: before + BEGIN + imports_picture() + END + after,
    }


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "Results go to stdout; progress and messages go to stderr. Exit codes: 0 all done; 1 some inputs failed, the "
        "rest are written and the failures listed; 2 the call or its inputs are unusable; 130 interrupted; 143 "
        "terminated. `camseg --version` prints the version, and `camseg COMMAND --help` says what stands here.",
        "",
        "This page is generated from the command line by `make docs`.",
    ]
    for words, callback in commands():
        name = f"camseg {words}"
        lines += ["", f"## {name}", "", inspect.getdoc(callback) or ""]
        groups: dict[str, list[tuple[str, str]]] = {"": []}
        for parameter in inspect.signature(callback).parameters.values():
            spelling, text, group = _entry(parameter)
            groups.setdefault(group, []).append((spelling, text))
        arguments = " ".join(spelling for spelling, _ in groups[""])
        lines += ["", "```text", f"{name} [OPTIONS] {arguments}".rstrip()]
        for group in sorted(groups, key=lambda group: (group != "", group != GENERAL)):
            lines += ["", *([f"{group}:"] if group and len(groups) > 2 else [])] if groups[group] else []
            for spelling, text in groups[group]:
                lines += _two_columns(spelling, text)
        lines += ["", "Example:", f"  {EXAMPLES[words]}", "```"]
    return "\n".join(lines) + "\n"


def _entry(parameter: inspect.Parameter) -> tuple[str, str, str]:
    """How a parameter is spelled, what it says, and the group of an option, "" for an argument."""
    annotation = parameter.annotation.__origin__
    info = next(note for note in parameter.annotation.__metadata__ if isinstance(note, ParameterInfo))
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kind = next(member for member in members if member is not type(None))
    kind = get_args(kind)[0] if get_origin(kind) is list else kind
    names = {bool: "", int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}
    value = info.metavar or ("|".join(get_args(kind)) if get_origin(kind) is Literal else names[kind])
    notes = []
    if parameter.default is inspect.Parameter.empty:
        notes.append("required")
    elif parameter.default is not None and parameter.default is not False:
        default = parameter.default
        default = ", ".join(default) if isinstance(default, list) else "on" if default is True else default
        notes.append(f"default: {default}")
    if info.min is not None:
        notes.append(f"at least {info.min}")
    text = f"{info.help or ''} [{'; '.join(notes)}]" if notes else info.help or ""
    if isinstance(info, ArgumentInfo):
        return value, text.strip(), ""
    # Inside Annotated typer keeps the first spelling under ``default``; yes and no may be one spelling, with / between.
    spelled = [flag for flag in (info.default, *(info.param_decls or ())) if isinstance(flag, str)]
    flags = [flag for both in spelled for flag in both.split("/")]
    long = parameter.name.replace("_", "-")
    flags = sorted(flags, key=len) or [f"--{long}", *([f"--no-{long}"] if kind is bool else [])]
    return " ".join(filter(None, [", ".join(flags), value])), text.strip(), info.rich_help_panel or GENERAL


def _two_columns(left: str, right: str, indent: int = 30) -> list[str]:
    wrapped = textwrap.wrap(right, WIDTH - indent)
    first = f"  {left}"
    if len(first) + 2 > indent:
        return [first, *(" " * indent + line for line in wrapped)]
    return [first.ljust(indent) + wrapped[0], *(" " * indent + line for line in wrapped[1:])]


def python_page() -> str:
    """Every public name: functions first, then settings, results and errors."""
    lines = [
        "# Python",
        "",
        "`import camseg` is instant; torch loads when a name is first used. Images are uint8 (H, W, 3) in RGB, maps "
        "and alphas float32 (H, W) in [0, 1], masks bool (H, W), trimaps uint8 (H, W) of 0, 128 and 255. Every error "
        "that camseg raises on purpose is a `camseg.CamsegError`. Settings are frozen and check themselves; what is "
        "left out takes the default that stands here.",
        "",
        "This page is generated from the docstrings by `make docs`.",
    ]
    homes = public_homes()
    found = {name: _find(f"camseg.{home}", name) for name, home in sorted(homes.items())}
    functions = {name: node for name, node in found.items() if isinstance(node, ast.FunctionDef)}
    errors = {name: node for name, node in found.items() if homes[name] == "base.errors"}
    classes = {name: node for name, node in found.items() if name not in functions and name not in errors}
    for title, names in (("Functions", functions), ("Classes and settings", classes), ("Errors", errors)):
        lines += ["", f"## {title}"]
        for name, node in names.items():
            lines += ["", f"### camseg.{name}", "", *_describe(node)]
    return "\n".join(lines) + "\n"


def public_homes() -> dict[str, str]:
    """The module of each public name, below camseg, as its stub says."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module)
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def manifest_page() -> str:
    """The JSON schema of a manifest's lines."""
    lines = [
        "# Manifest",
        "",
        "Every output folder has a `manifest.jsonl` with one JSON object per image and class. "
        "`camseg.read_manifest(OUT)` reads it as `camseg.Record`s. This page is generated from the record by "
        "`make docs`.",
        "",
        "| key | type | meaning |",
        "|---|---|---|",
    ]
    described = schema()
    for name, facts in described["properties"].items():
        kinds = [one.get("type", "") for one in facts.get("anyOf", [facts])]
        kind = " or ".join(dict.fromkeys(filter(None, kinds)))
        lines.append(f"| `{name}` | {kind} | {' '.join(facts.get('description', '').split())} |")
    text = json.dumps(described, indent=2, ensure_ascii=False)
    lines += ["", "As JSON schema:", "", "```json", *text.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def models_page() -> str:
    """The networks that can be named."""
    found = {one.name: one for one in list_models()}
    classifiers = [one for one in found.values() if one.kind == "classifier"]
    lines = [
        "# Models",
        "",
        "What `--model` can name; `camseg models` says the same, and of any other network what it has. Parameters are "
        "those that learn, with three inputs and one output; the input is the side in pixels that a network is trained "
        "with unless `--image-size` says otherwise. This page is generated from the registries by `make docs`.",
        "",
        "## Classifiers",
        "",
        "For `camseg train-cls`: these, and every other network of timm. Heads are joined to the name with `+`: "
        "[Methods](methods.md#architectures).",
        "",
        "| classifier | also called | parameters | input | paper |",
        "|---|---|---:|---:|---|",
        *(_facts(one, ", ".join(one.typed)) for one in classifiers),
        "",
        "## Segmentation networks",
        "",
        "For `camseg train-seg`: these, and a decoder joined to any encoder of timm that gives maps at strides 2 or 4 "
        "to 32, such as `unet+mobilenetv2_100` or `deeplabv3plus+resnet50`. `--model-arg KEY=VALUE` gives arguments.",
        "",
        "| segmentation network | arguments | parameters | input | paper |",
        "|---|---|---:|---:|---|",
    ]
    for name, entry in SEGMENTERS.items():
        lines.append(_facts(found[name], "; ".join(f"`{word}`: {said}" for word, said in entry.arguments.items())))
    lines += ["", "| decoder | paper |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {paper} |" for name, paper in DECODERS.items())]) + "\n"


def _facts(one: ModelFacts, second: str) -> str:
    return f"| `{one.name}` | {second} | {one.parameters:,} | {one.image_size} | {one.paper} |"


def _find(module: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    """The definition of a name in a module, or in the module that this one has it from."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return _with_inherited(module, node) if isinstance(node, ast.ClassDef) else node
        own = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("camseg.")
        if own and name in [alias.name for alias in node.names]:
            return _find(str(node.module), name)
    raise LookupError(f"{module} has no {name}")


def _with_inherited(module: str, node: ast.ClassDef) -> ast.ClassDef:
    """The class with the members that it has from classes of camseg: theirs first, with its own in their places."""
    members: dict[str, list[ast.stmt]] = {}
    bases = []
    for base in node.bases:
        with suppress(LookupError):
            bases.append(_find(module, ast.unparse(base)))
    for one in (*bases, node):
        for member, after in zip(one.body, [*one.body[1:], ast.Pass()], strict=True):
            if isinstance(member, ast.FunctionDef):
                members[member.name] = [member]
            elif isinstance(member, ast.AnnAssign) and not ast.unparse(member.annotation).startswith("ClassVar"):
                members[ast.unparse(member.target)] = [member, after]
    start = [one for one in node.body[:1] if isinstance(one, ast.Expr)]
    node.body = [*start, *(statement for found in members.values() for statement in found)]
    return node


def _describe(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """A function's signature and docstring; a class's docstring, fields and methods."""
    text = (ast.get_docstring(node) or "").replace("``", "`")
    if isinstance(node, ast.FunctionDef):
        return ["```python", *_signature(node), "```", "", text]
    lines = [text]
    fields = [member for member in node.body if isinstance(member, ast.AnnAssign)]
    if fields:
        lines.append("")
    for field in fields:
        note = node.body[node.body.index(field) + 1]
        assert isinstance(note, ast.Expr), f"{node.name}.{ast.unparse(field.target)} has no docstring under it"
        said = " ".join(inspect.cleandoc(ast.literal_eval(note.value)).split()).replace("``", "`")
        lines.append(f"- `{ast.unparse(_Bare().visit(field))}`: {said}")
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            is_property = any(ast.unparse(mark) == "property" for mark in member.decorator_list)
            call = member.name if is_property else "\n".join(_signature(member)).removeprefix("def ")
            said = " ".join((ast.get_docstring(member) or "").split("\n\n")[0].split()).replace("``", "`")
            lines += ["", f"**`{node.name}.{member.name}`** {said}"]
            lines += [] if is_property else ["", "```python", call, "```"]
    return lines


class _Bare(ast.NodeTransformer):
    """Annotations without what they say beside the type."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        annotated = ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple)
        return node.slice.elts[0] if annotated else node


def _signature(node: ast.FunctionDef) -> list[str]:
    """On one line if it fits, else a line per parameter."""
    ends = f") -> {ast.unparse(node.returns)}" if node.returns else ")"
    parameters = list(_parameters(node.args))
    line = f"{node.name}({', '.join(parameters)}{ends}"
    if len(line) <= WIDTH:
        return [line]
    return [f"{node.name}(", *(f"    {parameter}," for parameter in parameters), ends]


def _parameters(args: ast.arguments) -> Iterator[str]:
    defaults: list[ast.expr | None] = [None] * (len(args.args) - len(args.defaults)) + [*args.defaults]
    pairs = [pair for pair in zip(args.args, defaults, strict=True) if pair[0].arg != "self"]
    yield from (_parameter(*pair) for pair in pairs)
    if args.kwonlyargs:
        yield "*"
        yield from (_parameter(*pair) for pair in zip(args.kwonlyargs, args.kw_defaults, strict=True))


def _parameter(arg: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(arg) + (f" = {ast.unparse(default)}" if default else "")


def imports_picture() -> str:
    """The package's modules and who imports whom, as a Mermaid flowchart; arrows that others imply are left out."""
    imports = module_imports()
    lines = ["```mermaid", "flowchart LR"]
    for module, used in imports.items():
        implied = {far for near in used for far in _reachable(imports, near)}
        lines += [f"    {near} --> {module}" for near in sorted(used - implied)]
    return "\n".join([*lines, "```"]) + "\n"


def module_imports() -> dict[str, set[str]]:
    """Per module or subpackage of camseg, those that it imports anywhere in its code."""
    imports: dict[str, set[str]] = {}
    homes = public_homes()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if module.startswith("__"):
            continue
        used = imports.setdefault(module, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("camseg."):
                used.add(node.module.split(".")[1])
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "camseg" and node.attr in homes:
                used.add(homes[node.attr].split(".")[0])
        used.discard(module)
    return imports


def _reachable(imports: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = imports[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def main(write: Callable[[str], Any] = print) -> None:
    """Write the pages that differ, and say which."""
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            write(f"written: {path.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
