"""Stage `report`: write the page and its figures."""

from otoscope.artifacts import digest, fingerprint, read_table, resolve_inside
from otoscope.report.page import write_report
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.sae.checkpoint import CARD

REPORT_CODE = ("otoscope.report", "otoscope.protocols", "otoscope.metrics", "otoscope.formatting")
"""Code that the pages depend on: a new chart or sentence rewrites them."""


def report(run: Context) -> None:
    """Write the pages and figures from the artifacts of the run."""
    folder = run.folder
    names = read_table(folder.results)["sae_id"].unique()
    cards = sorted(resolve_inside(folder.saes, name) / CARD for name in names if name)
    artifacts = [
        folder.config,
        folder.corpus,
        folder.corpus.with_suffix(".json"),
        folder.corpus.with_name("set_aside.parquet"),
        folder.factors.with_suffix(".json"),
        folder.activations / "manifest.json",
        folder.results,
        *sorted(path for path in folder.explain.glob("*.*") if path.suffix in (".json", ".parquet")),
        *cards,
    ]
    run_stage(
        folder,
        "report",
        inputs=fingerprint([digest(path) for path in artifacts]),
        outputs=lambda: sorted(p for p in folder.report.parent.rglob("*") if p.suffix in (".html", ".svg", ".pdf")),
        work=lambda: write_report(folder.root),
        progress=run.progress,
        code=REPORT_CODE,
    )
