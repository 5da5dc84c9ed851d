"""The `otoscope` command."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

# set before torch loads: spinning threads starve each other on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from otoscope.cli import doctor, reproduce, stages, store, synth
from otoscope.errors import OtoscopeError

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    name="otoscope",
    help="Open pretrained audio encoders with sparse autoencoders: from a folder of audio to a report.\n\n"
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


def _print_version(requested: bool) -> None:
    if requested:
        print(f"otoscope {version('otoscope')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    # `main` removes it from the command line at any position; declared here for the help only
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; accepted by every command.")
    ] = False,
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors are one or two lines, a traceback only with `--debug`.

    Exit codes: 0 the artifact is complete, 1 an error that the message explains, 2 an invalid command line,
    70 an error in otoscope itself, 130 stopped by the user.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    try:
        app(tokens, prog_name="otoscope")
    except OtoscopeError as error:
        _fail(f"error: {error}", code=1, debug=debug)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # Typer exits silently after Ctrl-C
            print("stopped; run the same command again to resume", file=sys.stderr)
        raise
    except Exception as error:  # noqa: BLE001  no traceback without --debug
        text = " ".join(f"{type(error).__name__}: {error}".split())
        _fail(
            f"unexpected {text}\nThis is a bug in otoscope; run again with --debug and report it.",
            code=70,
            debug=debug,
        )


def _fail(text: str, *, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(text, file=sys.stderr)
    raise SystemExit(code)
