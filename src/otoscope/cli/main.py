"""The `otoscope` command."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

# before anything loads torch: threads that spin while they wait starve each other on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from otoscope.cli import doctor, reproduce, stages, store, synth
from otoscope.errors import OtoscopeError

INTERRUPTED = 130

app = typer.Typer(
    name="otoscope",
    help="Open pretrained audio models with sparse autoencoders: from a folder of sound to a report.\n\n"
    "Example: `otoscope demo`, then `otoscope run my.yaml`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
stages.register(app)
synth.register(app)
reproduce.register(app)
doctor.register(app)
store.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"otoscope {version('otoscope')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    # taken out of the command line by `main`, wherever it stands; declared for the help alone
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose; with any command.")] = False,
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors are one or two lines, a traceback only with `--debug`.

    Exit codes: 0 the artifact is whole, 1 an error that the message explains, 2 a wrong command
    line, 70 an error in otoscope itself, 130 stopped by the user.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        app(given, prog_name="otoscope")
    except OtoscopeError as error:
        _fail(f"error: {error}", code=1, debug=debug)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
            print("stopped; the same command goes on where this one was", file=sys.stderr)
        raise
    except Exception as error:  # noqa: BLE001  the last line of defence: no traceback reaches a user unasked
        said = " ".join(f"{type(error).__name__}: {error}".split())
        _fail(
            f"unexpected {said}\nThis is a defect in otoscope; run again with --debug and report it.",
            code=70,
            debug=debug,
        )


def _fail(text: str, *, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(text, file=sys.stderr)
    raise SystemExit(code)
