"""Commands that take a configuration: `run`, `demo`, and one for each stage."""

import json
from pathlib import Path
from typing import Annotated

import typer

from otoscope.cli.progress import TerminalProgress

Config = Annotated[
    Path, typer.Argument(help="the run's configuration, in YAML, or the folder of an earlier run", show_default=False)
]
Out = Annotated[Path | None, typer.Option("--out", help="run folder [default: runs/NAME]", show_default=False)]
DemoOut = Annotated[Path | None, typer.Option("--out", help="run folder [default: runs/demo]", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="override one setting, e.g. train.latents=1024; may be given more than once", show_default=False
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="stop at the first clip that cannot be used")]
Executor = Annotated[
    str, typer.Option("--executor", help="where work runs: local, ray, or ray://HOST:PORT of a cluster's head")
]
Json = Annotated[bool, typer.Option("--json", help="end with one JSON line on standard output")]

DEMO = Path(__file__).with_name("demo.yaml")

STAGE_HELP = {
    "corpus": "List, check and split the clips.",
    "factors": "Measure or collect the factors of every clip.",
    "extract": "Record what the layers hold.",
    "train": "Train the dictionaries.",
    "evaluate": "Make the results table, results.parquet, and no page.",
    "explain": "Find the clips in which the chosen latents fire most.",
    "report": "Write the page, index.html: the last stage, so everything before it is made too, as by `run`.",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        "demo",
        help="Sing a small corpus, open the starter model with SAEs, write the report.\n\nExample: `otoscope demo`",
    )(_demo)
    app.command("run", help="From sound to a report, in one go.\n\nExample: `otoscope run examples/fsdd.yaml`")(_run)
    for name, text in STAGE_HELP.items():
        example = f"What it needs is brought up to date first.\n\nExample: `otoscope {name} my.yaml`"
        app.command(name, help=f"{text}\n\n{example}")(_stage_command(name))


def _demo(out: DemoOut = None, override: Set = None, as_json: Json = False) -> None:
    _go(DEMO, out=out, overrides=override, until="report", strict=False, executor="local", as_json=as_json)


def _run(
    config: Config,
    out: Out = None,
    override: Set = None,
    strict: Strict = False,
    executor: Executor = "local",
    as_json: Json = False,
) -> None:
    _go(config, out=out, overrides=override, until="report", strict=strict, executor=executor, as_json=as_json)


def _stage_command(until: str):
    def command(
        config: Config,
        out: Out = None,
        override: Set = None,
        strict: Strict = False,
        executor: Executor = "local",
        as_json: Json = False,
    ) -> None:
        _go(config, out=out, overrides=override, until=until, strict=strict, executor=executor, as_json=as_json)

    return command


def _go(
    path: Path,
    *,
    out: Path | None,
    overrides: list[str] | None,
    until: str,
    strict: bool,
    executor: str,
    as_json: bool,
) -> None:
    from otoscope.cli.summary import print_summary  # here, so that --help does not wait for torch
    from otoscope.config import load_config
    from otoscope.executors.local import find_executor
    from otoscope.pipeline.run import run
    from otoscope.runs.folder import RunFolder

    earlier = RunFolder(path)
    if earlier.config.is_file():  # a run folder stands for the configuration that it was made with
        path, out = earlier.config, out or path
    config = load_config(path, overrides or ())
    folder = RunFolder(out or Path("runs") / config.name)
    bars = TerminalProgress()
    summary = run(config, folder, until=until, fail_fast=strict, progress=bars, executor=find_executor(executor))
    if as_json:
        print(json.dumps(summary.as_json()))
    else:
        print_summary(summary, folder)
