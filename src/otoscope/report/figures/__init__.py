"""Figures of the pages: panels, captions and the table behind each.

- `figure`: `Figure` and `Panel`, and their specifications for the page and for files
- `charts`, `marks`, `theme`: single charts, their shared parts, and the colours
- `probes`, `factors`, `strict`, `claims`: figures by topic; `probes.all_figures` collects those of a report

To add a chart: draw it in `charts`, return it with its caption from a topic module, and list it in `all_figures`.
"""
