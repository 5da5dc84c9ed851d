"""The `otoscope` command.

Commands that take a configuration: `run`, `demo`, and one for each stage.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otoscope.cli import Json, doctor, reproduce, store, synth
from otoscope.cli.faults import (
    INTERRUPTED,
    STOPPED,
    TERMINATED,
    check_limits,
    describe_fault,
    end_process,
    flush_output,
    signals_as_exits,
)
from otoscope.errors import OtoscopeError
from otoscope.formatting import count, one_line, printable
from otoscope.hardware import peak_memory_bytes
from otoscope.paths import ensure_home
from otoscope.pipeline.stages import STAGES, Stage
from otoscope.runs.terminal import TerminalProgress

if TYPE_CHECKING:
    from otoscope.runs.cards import RunSummary
    from otoscope.runs.folder import RunFolder

Config = Annotated[
    Path, typer.Argument(help="Configuration in YAML, or the folder of an earlier run.", show_default=False)
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder. [default: runs/NAME]", show_default=False)]
DemoOut = Annotated[Path | None, typer.Option("--out", help="Run folder. [default: runs/demo]", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, e.g. train.latents=1024; repeatable.", show_default=False),
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first clip that cannot be used.")]
Executor = Annotated[
    str, typer.Option("--executor", help="Where the work is done: local, ray, or ray://HOST:PORT of a cluster's head.")
]

Show = Annotated[
    int, typer.Option("--show", min=0, help="Print this many clips with group, split, labels and factors.")
]

Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        help="Steps, separated by commas: firing, top_clips, cards, splice, annotations, interventions, "
        "erasure, lens, attribution, sweeps, matching. [default: explain.only]",
        show_default=False,
    ),
]
Latents = Annotated[
    str | None,
    typer.Option("--latents", help="Also explain these latents, e.g. 12,345.", show_default=False),
]

DEMO = Path(__file__).with_name("demo.yaml")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        "demo",
        help="Synthesise a small corpus, train SAEs on the starter model, write the report.\n\n"
        "Example: `otoscope demo`",
    )(_demo)
    app.command("run", help="Run all stages, from audio to the report.\n\nExample: `otoscope run examples/fsdd.yaml`")(
        _run
    )
    for stage in STAGES.values():
        own = {"corpus": _corpus, "explain": _explain}
        command = own.get(stage.name) or _stage_command(stage.name)
        app.command(stage.name, help=_help(stage))(command)


def _help(stage: Stage) -> str:
    outputs = ", ".join(f"`{name}`" for name in stage.outputs)
    earlier = " Earlier stages run first if they are missing or outdated." if stage.inputs else ""
    return f"{stage.help}\n\nWrites {outputs}.{earlier}\n\nExample: `otoscope {stage.name} my.yaml`"


def _demo(out: DemoOut = None, override: Set = None, as_json: Json = False) -> None:
    _execute(DEMO, out=out, overrides=override, until="report", fail_fast=False, executor="local", as_json=as_json)


def _run(
    config: Config,
    out: Out = None,
    override: Set = None,
    fail_fast: FailFast = False,
    executor: Executor = "local",
    as_json: Json = False,
) -> None:
    _execute(
        config, out=out, overrides=override, until="report", fail_fast=fail_fast, executor=executor, as_json=as_json
    )


def _corpus(
    config: Config,
    out: Out = None,
    override: Set = None,
    fail_fast: FailFast = False,
    executor: Executor = "local",
    show: Show = 0,
    as_json: Json = False,
) -> None:
    _execute(
        config,
        out=out,
        overrides=override,
        until="corpus",
        fail_fast=fail_fast,
        executor=executor,
        as_json=as_json,
        show=show,
    )


def _explain(
    config: Config,
    out: Out = None,
    override: Set = None,
    only: Only = None,
    latents: Latents = None,
    fail_fast: FailFast = False,
    executor: Executor = "local",
    as_json: Json = False,
) -> None:
    given = {"only": only, "latents": latents}
    chosen = [f"explain.{name}=[{text}]" for name, text in given.items() if text is not None]
    _execute(
        config,
        out=out,
        overrides=[*(override or ()), *chosen],
        until="explain",
        fail_fast=fail_fast,
        executor=executor,
        as_json=as_json,
    )


def _stage_command(until: str) -> Callable[..., None]:
    def command(
        config: Config,
        out: Out = None,
        override: Set = None,
        fail_fast: FailFast = False,
        executor: Executor = "local",
        as_json: Json = False,
    ) -> None:
        _execute(
            config, out=out, overrides=override, until=until, fail_fast=fail_fast, executor=executor, as_json=as_json
        )

    return command


def _execute(
    path: Path,
    *,
    out: Path | None,
    overrides: list[str] | None,
    until: str,
    fail_fast: bool,
    executor: str,
    as_json: bool,
    show: int = 0,
) -> None:
    from otoscope.config.yaml_text import complete_mapping, read_mapping  # imported here, so that --help stays fast
    from otoscope.runs.cards import run_key
    from otoscope.runs.folder import RunFolder

    earlier = RunFolder(path)
    path = earlier.root  # with ~ expanded
    if earlier.config.is_file():  # a run folder contains its configuration
        path, out = earlier.config, out or path
    mapping = complete_mapping(read_mapping(path).mapping, path, overrides or ())
    progress = TerminalProgress()
    key = run_key(mapping, path, fail_fast=fail_fast)
    name = mapping["name"]
    if not show and (out or isinstance(name, str)):
        start_s = time.monotonic()
        current = _up_to_date(RunFolder(out or Path("runs") / name), key, until, progress, start_s)
        if current is not None:
            _print_summary(*current, as_json=as_json)
            return
    _update(path, out, overrides, until, fail_fast, executor, progress, key=key, as_json=as_json, show=show)


def _up_to_date(
    folder: "RunFolder", key: str, until: str, progress: TerminalProgress, start_s: float
) -> "tuple[RunSummary, str] | None":
    """Return summary and tables of a run that is up to date, seen without PyTorch; None if the stages have to look."""
    from otoscope.pipeline.stages import stages_until
    from otoscope.runs.cards import RunSummary, up_to_date

    if not folder.mark.is_file():
        return None
    stages = stages_until(until)
    with folder.locked():
        record = up_to_date(folder, key, stages)
        if record is None:
            return None
        folder.log("run", until=until)
        for stage in stages:
            folder.log("skipped", stage=stage)
            for line in (f"{stage}: up to date", *record["notes"][stage]):
                progress.message(line)
        has_results = "evaluate" in stages
        summary = RunSummary(
            run=folder.root,
            report=folder.report if "report" in stages else None,
            results=folder.results if has_results else None,
            seconds=time.monotonic() - start_s,
            peak_rss_mb=peak_memory_bytes() / 1e6,
            set_aside=record["set_aside"],
            clips=record["clips"],
            notes=record["notes"],
        )
        folder.log("done", seconds=round(summary.seconds, 3), peak_rss_mb=round(summary.peak_rss_mb, 1))
    return summary, record["tables"] if has_results else ""


def _update(
    path: Path,
    out: Path | None,
    overrides: list[str] | None,
    until: str,
    fail_fast: bool,
    executor: str,
    progress: TerminalProgress,
    *,
    key: str,
    as_json: bool,
    show: int,
) -> None:
    from otoscope.cli.summary import clip_lines, summary_tables
    from otoscope.config import load_config
    from otoscope.executors.base import find_executor
    from otoscope.pipeline.run import external_inputs, run
    from otoscope.runs.cards import record_run
    from otoscope.runs.folder import RunFolder, load_corpus

    config = load_config(path, overrides or ())
    folder = RunFolder(out or Path("runs") / config.name)
    if out is None and (other := _run_elsewhere(path, folder)):
        progress.message(
            f"warning: {config.name} has a run in {other}; {folder.root} is a new one (--out continues that)"
        )
    if out is None and (before := _other_sound(config.corpus.model_dump(mode="json"), folder)):
        progress.message(
            f"warning: {folder.root} holds a run of other sound ({before}), whose results this run replaces "
            "(--out DIR or another name keeps both)"
        )
    summary = run(config, folder, until=until, fail_fast=fail_fast, progress=progress, executor=find_executor(executor))
    tables = summary_tables(summary)
    if inputs := external_inputs(config, folder, until=until):
        record_run(folder, summary, key=key, files=inputs[0], trees=inputs[1], tables=tables)
    _print_summary(summary, tables, as_json=as_json, shown=clip_lines(load_corpus(folder), show) if show else [])


def _print_summary(summary: "RunSummary", tables: str, *, as_json: bool, shown: Sequence[str] = ()) -> None:
    """Print clips, key numbers and the paths of the artifacts, or one JSON line."""
    if as_json:
        print(json.dumps(summary.as_json() | ({"clips_shown": list(shown)} if shown else {})))
        return
    for line in shown:
        print(printable(line))
    print(tables, end="")
    set_aside = f", {summary.set_aside} set aside" if summary.set_aside else ""
    clips = count(summary.clips, "clip")
    print(f"{clips}{set_aside}; {summary.seconds:,.1f} s, peak memory {summary.peak_rss_mb:,.0f} MB")
    print(f"run      {summary.run}")
    if summary.results is not None:
        print(f"results  {summary.results}")
    if summary.report is not None:
        print(f"report   {summary.report}  (open it in a browser)")
        if (claims := summary.report.with_name("claims.html")).is_file():
            print(f"claims   {claims}")


def _run_elsewhere(config: Path, folder: "RunFolder") -> Path | None:
    """Return the default folder of an earlier run of this configuration, seen from another working directory."""
    if folder.config.is_file():
        return None
    parents = dict.fromkeys((*config.resolve().parents, *Path.cwd().parents))
    runs = (parent / folder.root for parent in parents)
    return next((run for run in runs if run.joinpath(folder.config.name).is_file()), None)


def _other_sound(corpus: Mapping[str, Any], folder: "RunFolder") -> str:
    """Return the folder or table of the run that a folder holds; empty if it is the same, or there is none."""
    from otoscope.report.run_data import read_config

    before = None
    with suppress(OtoscopeError):  # a damaged file is written anew
        before = read_config(folder.root).get("corpus")
    if not isinstance(before, Mapping):
        return ""
    changed = [key for key in ("kind", "table", "root") if before.get(key) != corpus.get(key)]
    return ", ".join(f"{key}: {printable(str(before[key]))}" for key in changed if before.get(key))


# set before torch loads: spinning threads starve each other on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
register(app)
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
    70 an error in otoscope itself, 130 and 143 stopped by SIGINT (Ctrl-C) and SIGTERM.
    """
    if arguments is None:
        _use_utf8()
        ensure_home()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    with signals_as_exits(debug=debug):
        try:
            check_limits()
            app(tokens, prog_name="otoscope")
        except OtoscopeError as error:
            _fail(f"error: {error}", code=1, debug=debug)
        except SystemExit as stop:
            if stop.code in (INTERRUPTED, TERMINATED):  # Typer exits silently after Ctrl-C
                _fail(STOPPED, code=int(stop.code), debug=debug, at_once=arguments is None)
            if not stop.code and (fault := flush_output()) is not None:
                _fail(f"error: {fault}" if fault else "", code=1, debug=debug)
            raise
        except BaseException as error:  # noqa: BLE001  no traceback without --debug; a panic of Rust is no Exception
            if fault := flush_output() or describe_fault(error):
                _fail(f"error: {fault}", code=1, debug=debug)
            text = one_line(f"{type(error).__name__}: {error}")
            report = "This is a bug in otoscope; run again with --debug and report it."
            _fail(f"unexpected {text}\n{report}", code=70, debug=debug)


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode if the locale has another encoding: names of files are then read as UTF-8."""
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")


def _fail(text: str, *, code: int, debug: bool, at_once: bool = False) -> None:
    with suppress(OSError):  # standard error may be full or closed, too
        if debug:
            traceback.print_exc()
        if text:
            print(printable(text), file=sys.stderr)
    if at_once:
        end_process(code)
    raise SystemExit(code)
