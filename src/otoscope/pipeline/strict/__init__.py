"""The protocol `strict` over a run: what it compares, what it trains for that, and the order of its parts."""

from otoscope.pipeline.strict.judge import judge

__all__ = ["judge"]
