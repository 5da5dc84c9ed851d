"""A source-filter singer with known factors."""

from otoscope.corpus.synth.melody import PATTERNS
from otoscope.corpus.synth.sing import Performance, perform, sing
from otoscope.corpus.synth.singer import Singer, choir, singer
from otoscope.corpus.synth.spec import SynthCorpus
from otoscope.corpus.synth.techniques import TECHNIQUES
from otoscope.corpus.synth.tree import write_vocalset_tree
from otoscope.corpus.synth.voice import Voice
from otoscope.corpus.synth.vowels import VOWELS

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
