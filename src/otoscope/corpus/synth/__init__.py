"""A source-filter singer with known factors."""

from otoscope.corpus.synth.dataset import SynthCorpus
from otoscope.corpus.synth.melody import PATTERNS
from otoscope.corpus.synth.singer import Singer, Voice, choir, singer
from otoscope.corpus.synth.synthesis import Performance, perform, sing
from otoscope.corpus.synth.techniques import TECHNIQUES
from otoscope.corpus.synth.tree import write_vocalset_tree
from otoscope.corpus.synth.vocal_tract import VOWELS

__all__ = [
    "PATTERNS",
    "TECHNIQUES",
    "VOWELS",
    "Performance",
    "Singer",
    "SynthCorpus",
    "Voice",
    "choir",
    "perform",
    "sing",
    "singer",
    "write_vocalset_tree",
]
