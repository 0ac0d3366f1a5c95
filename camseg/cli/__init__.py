"""The command line. A command is loaded when it is called, so that ``--help`` answers at once."""

import ast
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup

from camseg import __version__
from camseg.base.errors import CamsegError

COMMANDS: Final = (
    "train-cls",
    "ensemble",
    "layers",
    "kernels",
    "methods",
    "cams",
    "propagate",
    "masks",
    "trimap",
    "refine",
    "evaluate",
    "audit",
    "compare",
    "label",
    "prepare",
    "demo",
)
"""Each is a function in a module of that name here, or a group of functions."""


def load_command(name: str) -> Callable[..., None] | typer.Typer:
    """The function of a command, or the group of its commands."""
    word = name.replace("-", "_")
    found: Callable[..., None] | typer.Typer = getattr(importlib.import_module(f"camseg.cli.{word}"), word)
    return found


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """Every command by the words that call it, those of groups included."""
    for name in COMMANDS:
        command = load_command(name)
        if isinstance(command, typer.Typer):
            for inner in command.registered_commands:
                assert inner.callback is not None
                yield f"{name} {inner.name or inner.callback.__name__.replace('_', '-')}", inner.callback
        else:
            yield name, command


class _Commands(TyperGroup):
    """Loads a command when it is called; the list of all is made of their first lines, read from the source."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:  # then the likest of all names is suggested
            for name in COMMANDS:
                self.get_command(ctx, name)
        elif cmd_name not in self.commands:
            command = load_command(cmd_name)
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            if isinstance(command, typer.Typer):
                single = command
            else:
                single.command(name=cmd_name)(command)
            self.commands[cmd_name] = typer.main.get_command(single)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in COMMANDS])


def _summary(name: str) -> str:
    """What a command does, without loading it: its docstring's, or of a group the module's, first line."""
    word = name.replace("-", "_")
    spec = find_spec(f"camseg.cli.{word}")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    named: list[ast.FunctionDef | ast.Module] = [tree]
    named += [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == word]
    return (ast.get_docstring(named[-1]) or "").splitlines()[0]


app = typer.Typer(
    name="camseg",
    cls=_Commands,
    help="From image-level labels to pixel masks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"camseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line: 0 all done, 1 some inputs failed, 2 unusable call or inputs, 130 interrupted."""
    # Class and file names that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except CamsegError as error:
        print(f"camseg: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        print(f"camseg: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # what libraries raise, such as too little memory; else a bug
        if os.environ.get("CAMSEG_TRACEBACK"):
            raise
        words = " ".join(str(error).split())[:500]
        print(f"camseg: {type(error).__name__}: {words} (CAMSEG_TRACEBACK=1 shows where)", file=sys.stderr)
        sys.exit(2)
