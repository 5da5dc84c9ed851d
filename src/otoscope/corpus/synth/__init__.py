"""A source-filter singer with known factors."""

from otoscope.corpus.synth.dataset import SynthCorpus
from otoscope.corpus.synth.melody import PATTERNS
from otoscope.corpus.synth.singer import Singer, Voice, draw_singer, draw_singers
from otoscope.corpus.synth.synthesis import SynthClip, synthesise, synthesise_voice
from otoscope.corpus.synth.techniques import TECHNIQUES
from otoscope.corpus.synth.tree import write_vocalset_tree
from otoscope.corpus.synth.vocal_tract import VOWELS

__all__ = [
    "PATTERNS",
    "TECHNIQUES",
    "VOWELS",
    "Singer",
    "SynthClip",
    "SynthCorpus",
    "Voice",
    "draw_singer",
    "draw_singers",
    "synthesise",
    "synthesise_voice",
    "write_vocalset_tree",
]
