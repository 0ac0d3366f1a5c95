"""The command line. A command is loaded when it is called, so that ``--help`` answers at once."""

import ast
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup

from camseg import __version__
from camseg.base.errors import CamsegError

COMMANDS: Final = (
    "train-cls",
    "train-seg",
    "ensemble",
    "layers",
    "kernels",
    "methods",
    "models",
    "cams",
    "propagate",
    "masks",
    "trimap",
    "refine",
    "evaluate",
    "audit",
    "compare",
    "choose",
    "label",
    "segment",
    "merge",
    "export",
    "import",
    "quality",
    "review",
    "loop",
    "report",
    "prepare",
    "doctor",
    "demo",
)
"""Each is a function in a module of that name here, or a group of functions."""


def load_command(name: str) -> Callable[..., None] | typer.Typer:
    """The function of a command, or the group of its commands."""
    word = _word(name)
    found: Callable[..., None] | typer.Typer = getattr(importlib.import_module(f"camseg.cli.{word}"), word)
    return found


def _word(name: str) -> str:
    """What Python calls a command's module and function."""
    word = name.replace("-", "_")
    return f"{word}_" if iskeyword(word) else word


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
            self.commands[cmd_name] = _made(cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in COMMANDS])


def _made(name: str) -> Any:
    """A command, or a group of commands, as typer runs it."""
    from camseg.cli.help import EXAMPLES, Command

    found = load_command(name)
    single = found if isinstance(found, typer.Typer) else typer.Typer(add_completion=False, rich_markup_mode=None)
    if not isinstance(found, typer.Typer):
        single.command(name=name)(found)
    for one in single.registered_commands:
        assert one.callback is not None
        words = name if single is not found else f"{name} {one.name or one.callback.__name__.replace('_', '-')}"
        one.cls, one.epilog = Command, EXAMPLES[words]
    return typer.main.get_command(single)


def _summary(name: str) -> str:
    """What a command does, without loading it: its docstring's, or of a group the module's, first line."""
    word = _word(name)
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


_CONTINUED: Final = (
    "train-cls",
    "train-seg",
    "cams",
    "propagate",
    "masks",
    "trimap",
    "refine",
    "audit",
    "compare",
    "label",
    "segment",
    "import",
    "prepare",
)
"""Commands that keep what is finished, and go on from there."""


def main() -> None:
    """Run the command line: 0 done, 1 some inputs failed, 2 unusable call, 130 interrupted, 143 terminated."""
    # Class and file names that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _terminable():
            app(prog_name="camseg")
    except SystemExit as error:
        if error.code in (_INTERRUPTED, _TERMINATED):
            print(f"camseg: {_farewell(error.code)}", file=sys.stderr)
        raise
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


_INTERRUPTED, _TERMINATED = 130, 143
"""Exit codes of Ctrl-C, which typer gives, and of SIGTERM."""


def _farewell(code: int) -> str:
    word = "interrupted" if code == _INTERRUPTED else "terminated"
    called = next((one for one in sys.argv[1:] if not one.startswith("-")), "")
    if called not in _CONTINUED and not (called == "choose" and any(one.startswith("--cache") for one in sys.argv)):
        return word
    without = " without --overwrite" if "--overwrite" in sys.argv else ""
    return f"{word}; what is finished is kept, and the same command{without} continues it"


@contextmanager
def _terminable() -> Iterator[None]:
    """Within it SIGTERM ends the work as Ctrl-C does: in order, with what is finished kept."""

    def end(_number: int, _frame: object) -> None:
        sys.exit(_TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # no other may set what signals do
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
