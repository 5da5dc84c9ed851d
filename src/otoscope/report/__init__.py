"""Charts, tables and one self-contained page; computes nothing, reads results."""

from otoscope.report.page import write_report

__all__ = ["write_report"]
