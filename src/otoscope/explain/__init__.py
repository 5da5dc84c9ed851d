"""What latents respond to: the factor that one follows, and the moments at which it fires."""

from otoscope.explain.activating_clips import Moment, TimedCodes, strongest_moments
from otoscope.explain.artifacts import Moments, Sound, read_moments, write_moments
from otoscope.explain.selection import LatentChoice, choose_latents

__all__ = [
    "LatentChoice",
    "Moment",
    "Moments",
    "Sound",
    "TimedCodes",
    "choose_latents",
    "read_moments",
    "strongest_moments",
    "write_moments",
]
