"""Stage `report`: write the page and its figures."""

from otoscope.artifacts import digest, fingerprint, read_table
from otoscope.report.page import write_report
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.sae.checkpoint import CARD

PAGE = 4
"""Version of the page, incremented when the same artifacts give another page."""


def report(run: Context) -> None:
    """Write the page and its figures; reads artifacts, computes nothing."""
    folder, watch = run.folder, run.progress
    cards = sorted(folder.saes / name / CARD for name in read_table(folder.results)["sae_id"].unique() if name)
    read = [
        folder.config,
        folder.corpus,
        folder.corpus.with_suffix(".json"),
        folder.corpus.with_name("set_aside.parquet"),
        folder.factors.with_suffix(".json"),
        folder.activations / "manifest.json",
        folder.results,
        folder.explain / "card.json",
        *cards,
    ]
    inputs = fingerprint(PAGE, [digest(path) for path in read])
    run_stage(
        folder, "report", inputs=inputs, outputs=[folder.report], work=lambda: write_report(folder.root), progress=watch
    )
