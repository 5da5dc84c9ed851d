"""A singing synthesiser (glottal source and vocal tract) whose factors are known exactly.

Start with `SynthCorpus` (`kind: synth` in a configuration), or with `synthesise` for one clip.

- `SynthCorpus`: settings of a corpus; `render_corpus` writes it to a folder
- `synthesise`: one clip by a singer; `synthesise_voice` takes every setting of the voice; both return a `SynthClip`
- `draw_singer`, `draw_singers`: singers (`Singer`) drawn from a seed; `Voice` holds the settings of one clip
- `TECHNIQUES`, `VOWELS`, `PATTERNS`: ten techniques, five vowels, three note patterns

Modules: `singer` (voices and techniques), `melody` (notes, speech, vibrato, trill, loudness over time), `source`
(glottal pulses, breath noise, and the resonators of the vocal tract), `synthesis` (one clip), `dataset` (a corpus).
"""

from otoscope.corpus.synth.dataset import SynthCorpus as SynthCorpus
from otoscope.corpus.synth.dataset import render_corpus as render_corpus
from otoscope.corpus.synth.melody import PATTERNS as PATTERNS
from otoscope.corpus.synth.singer import TECHNIQUES as TECHNIQUES
from otoscope.corpus.synth.singer import Singer as Singer
from otoscope.corpus.synth.singer import Voice as Voice
from otoscope.corpus.synth.singer import draw_singer as draw_singer
from otoscope.corpus.synth.singer import draw_singers as draw_singers
from otoscope.corpus.synth.source import VOWELS as VOWELS
from otoscope.corpus.synth.synthesis import SynthClip as SynthClip
from otoscope.corpus.synth.synthesis import synthesise as synthesise
from otoscope.corpus.synth.synthesis import synthesise_voice as synthesise_voice
