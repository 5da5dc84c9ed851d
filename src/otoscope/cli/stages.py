"""Commands that take a configuration: `run`, `demo`, and one for each stage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from otoscope.cli.progress import TerminalProgress
from otoscope.pipeline.stages import STAGES, Stage

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
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line on standard output.")]

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
        app.command(stage.name, help=_help(stage))(_stage_command(stage.name))


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
) -> None:
    from otoscope.cli.summary import print_summary  # imported here, so that --help does not wait for torch
    from otoscope.config import load_config
    from otoscope.executors.local import find_executor
    from otoscope.pipeline.run import run
    from otoscope.runs.folder import RunFolder

    earlier = RunFolder(path)
    if earlier.config.is_file():  # a run folder contains its configuration
        path, out = earlier.config, out or path
    config = load_config(path, overrides or ())
    folder = RunFolder(out or Path("runs") / config.name)
    progress = TerminalProgress()
    summary = run(config, folder, until=until, fail_fast=fail_fast, progress=progress, executor=find_executor(executor))
    if as_json:
        print(json.dumps(summary.as_json()))
    else:
        print_summary(summary, folder)
