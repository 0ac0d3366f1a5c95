"""The command line. Commands load what they need when they run, so that ``--help`` answers at once."""

import io
import os
import sys

import typer

from camseg import __version__
from camseg.base.errors import CamsegError
from camseg.cli.audit import audit
from camseg.cli.cams import cams
from camseg.cli.compare import compare
from camseg.cli.demo import demo
from camseg.cli.ensemble import ensemble
from camseg.cli.evaluate import evaluate
from camseg.cli.kernels import kernels
from camseg.cli.label import label
from camseg.cli.layers import layers
from camseg.cli.masks import masks
from camseg.cli.methods import methods
from camseg.cli.prepare import prepare
from camseg.cli.propagate import propagate
from camseg.cli.refine import refine
from camseg.cli.train_cls import train_cls
from camseg.cli.trimap import trimap

app = typer.Typer(
    name="camseg",
    help="From image-level labels to pixel masks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    train_cls,
    ensemble,
    layers,
    kernels,
    methods,
    cams,
    propagate,
    masks,
    trimap,
    refine,
    evaluate,
    audit,
    compare,
    label,
    demo,
):
    app.command(name=command.__name__.replace("_", "-"))(command)
app.add_typer(prepare)


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
