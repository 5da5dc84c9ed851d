"""Latents and the clips in which they fire.

- `choose_latents`: the latent that follows each factor best, chosen on training groups, tested on test groups
- `top_activating_clips`: the clips in which a latent is strongest
- `spectrogram`, `to_png`: spectrograms as small pictures
- `write_top_clips`, `read_top_clips`: sound, spectrogram and activation of these clips in a run's `explain/`

Start with `otoscope.pipeline.explain`, which puts them together.
"""

from otoscope.explain.activating_clips import ActivatingClip, TimedCodes, top_activating_clips
from otoscope.explain.artifacts import Sound, TopClips, read_top_clips, write_top_clips
from otoscope.explain.selection import LatentChoice, choose_latents
from otoscope.explain.spectrogram import Spectrogram, spectrogram, to_png

__all__ = [
    "ActivatingClip",
    "LatentChoice",
    "Sound",
    "Spectrogram",
    "TimedCodes",
    "TopClips",
    "choose_latents",
    "read_top_clips",
    "spectrogram",
    "to_png",
    "top_activating_clips",
    "write_top_clips",
]
