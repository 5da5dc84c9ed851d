"""What latents respond to: the moments at which they fire."""

from otoscope.explain.gallery import Moments, Sound, read_moments, write_moments
from otoscope.explain.moments import LatentChoice, Moment, TimedCodes, choose_latents, strongest_moments

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
