"""All commands, and what becomes of their errors."""

import io
import logging
import os
import signal
import sys
from typing import Annotated

import typer

from sppnet import __version__
from sppnet.cli import (
    benchmark,
    check,
    classify,
    convert,
    demo,
    detect,
    doctor,
    export,
    features,
    label,
    proposals,
    serve,
    trunk,
    visualize,
)
from sppnet.errors import SppnetError
from sppnet.malloc import keep_memory

app = typer.Typer(
    help="Spatial pyramid pooling: classify images of any size and find objects in them, on a laptop CPU.",
    rich_markup_mode=None,  # plain help: rich would make it wait
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(classify.app, name="classify", help="Train, evaluate and use classifiers.")
app.add_typer(detect.app, name="detect", help="Train, evaluate and use detectors.")
app.add_typer(benchmark.app, name="benchmark", help="Measure us against the alternatives, in one run.")
app.add_typer(export.app, name="export", help="Write models for other runtimes.")
app.add_typer(visualize.app, name="visualize", help="See inside: filters, pyramids, bins.")
app.command("check")(check.check)
app.command("convert")(convert.convert)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("features")(features.features)
app.command("label")(label.label)
app.command("proposals")(proposals.proposals)
app.command("serve")(serve.serve)
app.command("trunk")(trunk.trunk)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sppnet {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What comes before a command."""


def main() -> None:
    """Run the command line. Exits with 0, 1 for an error, 2 for wrong usage, 130 and 143 when stopped."""
    _open_standard_streams()
    _print_every_name()
    keep_memory()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except SppnetError as error:
        sys.exit(f"sppnet: {error}")
    except OSError as error:
        sys.exit(f"sppnet: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _open_standard_streams() -> None:
    """Services start programs with some of them closed: what is printed there goes nowhere.

    Taken up again, the numbers 0 to 2 cannot become a file of results that somebody's messages end up in.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _print_every_name() -> None:
    """File names need not be text: what cannot be encoded is printed as an escape, as JSON has them too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(number: int, frame: object) -> None:
    """Ends as Ctrl-C does, so that half-written files are removed and progress bars closed."""
    sys.exit(128 + number)
