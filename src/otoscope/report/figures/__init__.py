"""Figures of the pages: panels, captions and the table behind each.

- `Figure`, `Panel`: a figure and its charts; `figure_chart` draws it as one Altair chart
- `all_figures`: figures of a report, by section
- `charts`, `marks`, `theme`: single charts, the parts that they share, and colours
- `probes`, `factors`, `strict`, `claims`: figures by topic

To add a chart: draw it in `charts`, return it with its caption from a topic module, and list it in `all_figures`.
"""

from otoscope.report.figures.figure import Figure, Panel, figure_chart
from otoscope.report.figures.probes import all_figures

__all__ = ["Figure", "Panel", "all_figures", "figure_chart"]
