"""`otoscope reproduce`: the study from beginning to end, every number beside the published one."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from otoscope.cli.bars import Bars
from otoscope.cli.stages import Json

STUDIES = ("mariotte2025",)

Data = Annotated[Path, typer.Option("--data", help="VocalSet's folder, unpacked", show_default=False)]
Models = Annotated[
    Path | None, typer.Option("--models", help="folder of checkpoints, under their hub names", show_default=False)
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="NAME=CHECKPOINT, or NAME=CHECKPOINT@LAYER,LAYER with the layers that stand for the published pair",
        show_default=False,
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="run this model alone (AST, WavLM, HuBERT, MERT)", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", help="folder of the reproduction")]
OldOut = Annotated[Path | None, typer.Option("--output", hidden=True, help="the former name of --out")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="a switch or an effort, e.g. vibrado=fix or crops=100", show_default=False),
]
Device = Annotated[str, typer.Option("--device", help="where the models run: cpu, cuda, cuda:1, mps")]
Plan = Annotated[bool, typer.Option("--plan", help="estimate time and disk, and start nothing")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "reproduce",
        help="Run a published study as its authors did, and set every number beside the published one.\n\n"
        "Example: `otoscope reproduce mariotte2025 --data VocalSet --plan`, then without `--plan`",
    )(_reproduce)


def _reproduce(
    study: Annotated[str, typer.Argument(help="which study: mariotte2025 (arXiv 2509.24793)")],
    data: Data,
    models: Models = None,
    override: Override = None,
    only: Only = None,
    out: Out = Path("runs/mariotte2025"),
    old_out: OldOut = None,
    settings: Set = None,
    device: Device = "cpu",
    plan: Plan = False,
    as_json: Json = False,
) -> None:
    from otoscope.cli.comparison import print_comparison, print_plan  # here, so that --help does not wait for torch
    from otoscope.config.mariotte2025 import parse_settings
    from otoscope.errors import ConfigError, suggest
    from otoscope.protocols.mariotte2025.models import choose_models
    from otoscope.reproduce.mariotte2025.run import reproduce

    if study not in STUDIES:
        raise ConfigError(f"no study {study!r}; {suggest(study, STUDIES)}")
    chosen = parse_settings(settings or ())
    wanted = choose_models(folder=models, overrides=override or (), only=only or ())
    if not data.is_dir():
        state = "is a file, not a folder" if data.is_file() else "does not exist"
        raise ConfigError(f"--data: {data} {state}; give VocalSet's folder, unpacked")
    folder = old_out or out
    common: dict[str, Any] = {"models": wanted, "settings": chosen, "device": device}
    if plan:
        from otoscope.reproduce.mariotte2025.estimate import estimate

        found = estimate(data, folder, watch=Bars(), **common)
        if as_json:
            print(json.dumps(found.as_json()))
        else:
            print_plan(found)
        found.require_room()
        return
    made = reproduce(data, folder, watch=Bars(), **common)
    if as_json:
        print(json.dumps(made.as_json()))
    else:
        print_comparison(made)
