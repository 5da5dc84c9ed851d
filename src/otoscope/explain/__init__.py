"""Latents: when they fire, and the clips in which they fire.

- `write_activation_index`, `ActivationIndex`: all codes of a dictionary, by clip and by latent
- `top_activations`, `quantile_examples`, `silent_clips`, `near_misses`: rows and clips that show when a latent fires
- `firing_by_class`, `co_firing`: firing rates per label or group, and latents that fire together
- `choose_latents`: the latent that follows each factor best, chosen on training groups, tested on test groups
- `top_activating_clips`: the clips in which a latent is strongest
- `spectrogram`, `to_png`: spectrograms as small pictures
- `write_top_clips`, `read_top_clips`: sound, spectrogram and activation of these clips in a run's `explain/`

Start with `otoscope.pipeline.explain`, which puts them together.
"""

from otoscope.explain.activating_clips import ActivatingClip, TimedCodes, top_activating_clips
from otoscope.explain.activation_index import ActivationIndex, Firing, index_inputs, write_activation_index
from otoscope.explain.artifacts import Sound, TopClips, read_top_clips, write_top_clips
from otoscope.explain.firing import (
    Example,
    co_firing,
    example_table,
    firing_by_class,
    near_misses,
    quantile_examples,
    silent_clips,
    top_activations,
)
from otoscope.explain.selection import LatentChoice, choose_latents
from otoscope.explain.spectrogram import Spectrogram, spectrogram, to_png

__all__ = [
    "ActivatingClip",
    "ActivationIndex",
    "Example",
    "Firing",
    "LatentChoice",
    "Sound",
    "Spectrogram",
    "TimedCodes",
    "TopClips",
    "choose_latents",
    "co_firing",
    "example_table",
    "firing_by_class",
    "index_inputs",
    "near_misses",
    "quantile_examples",
    "read_top_clips",
    "silent_clips",
    "spectrogram",
    "to_png",
    "top_activating_clips",
    "top_activations",
    "write_activation_index",
    "write_top_clips",
]
