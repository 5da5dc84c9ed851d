"""What latents respond to: the factor that one follows, and the moments at which it fires."""

from otoscope.explain.choice import LatentChoice, choose_latents
from otoscope.explain.gallery import Moments, Sound, read_moments, write_moments
from otoscope.explain.moments import Moment, TimedCodes, strongest_moments

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
