"""The report of a run: one self-contained page, a page about published claims, and figures as files.

- `write_report`: write `report/index.html`, `report/claims.html` and `report/figures/` of a run folder
- `read_run`, `RunData`: contents of a run folder as the report reads them
- `Results`: the rows of a results table that charts and sentences use

Numbers become plain data in `sections` and `claims`, charts in `figures`, and HTML in `templates/` (Jinja2), which
`layout` renders. Start with `page`. From Python, `otoscope.plot` returns single charts.
"""

from otoscope.report.page import write_report
from otoscope.report.results import Results
from otoscope.report.run_data import RunData, read_run

__all__ = ["Results", "RunData", "read_run", "write_report"]
