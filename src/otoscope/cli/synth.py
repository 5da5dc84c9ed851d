"""`otoscope synth`: render a synthesised corpus into a folder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from otoscope.runs.progress import progress_counter
from otoscope.runs.terminal import TerminalProgress

Singers = Annotated[int, typer.Option("--singers", help="number of singers, alternating women and men")]
Takes = Annotated[int, typer.Option("--takes", help="clips of each technique by each singer")]
Duration = Annotated[float, typer.Option("--duration-s", help="length of every clip, in seconds")]
Rate = Annotated[int, typer.Option("--rate-hz", help="sample rate")]
Seed = Annotated[int, typer.Option("--seed", help="seed of the singers and of all their clips")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON line on standard output")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "synth",
        help="Synthesise singing in ten techniques, with a table of the labels and true factors of every clip.\n\n"
        "Example: `otoscope synth sung --singers 20`, then `corpus: {kind: manifest, table: sung/clips.parquet}`",
    )(_synth)


def _synth(
    folder: Annotated[Path, typer.Argument(help="output folder: new or empty", show_default=False)],
    singers: Singers = 12,
    takes: Takes = 5,
    duration_s: Duration = 2.0,
    rate_hz: Rate = 16_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    from otoscope.corpus.catalog import validate_settings  # imported here, so that --help does not load numba
    from otoscope.corpus.synth.dataset import SynthCorpus, check_output_folder, render_corpus
    from otoscope.paths import user_path

    settings = {"singers": singers, "takes": takes, "duration_s": duration_s, "rate_hz": rate_hz, "seed": seed}
    spec = validate_settings(SynthCorpus, settings)
    folder = user_path(folder)
    check_output_folder(spec, folder)
    with progress_counter(TerminalProgress(), "synthesising", "clips") as on_progress:
        clips = render_corpus(spec, folder, on_progress=on_progress)
    if as_json:
        print(json.dumps({"folder": str(folder), "clips": clips.height, "fingerprint": spec.fingerprint}))
    else:
        print(f"{clips.height} clips in {folder}; labels, true factors: clips.parquet; f0, loudness: truth.parquet")
