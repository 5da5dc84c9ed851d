"""Audio clips with groups, splits, labels and known factors.

Start with `build_corpus(corpus_from_dict({"kind": "folder", "root": "recordings"}), Splits(), cache=folder)`.

- `Corpus`: one row per clip, saved as Parquet
- `CorpusSpec`: base class of a corpus kind; `CORPORA` lists the kinds, `corpus_from_dict` validates settings
- `build_corpus`: list, decode every clip once, set unusable ones aside, split by group
- `Splits`: assignment of whole groups to train, valid and test
- `load_audio`, `load_clip`, `decode`, `write_audio`: audio in and out; `StreamedClip` for long recordings
- `class_support`, `shared_recordings`: classes with too few clips, recordings in more than one group
- `datasets`: readers of existing recordings; `synth`: a singing synthesiser with known factors
"""

from otoscope.corpus.audio import Recording as Recording
from otoscope.corpus.audio import decode as decode
from otoscope.corpus.audio import load_audio as load_audio
from otoscope.corpus.audio import load_clip as load_clip
from otoscope.corpus.audio import write_audio as write_audio
from otoscope.corpus.catalog import CORPORA as CORPORA
from otoscope.corpus.catalog import build_corpus as build_corpus
from otoscope.corpus.catalog import corpus_from_dict as corpus_from_dict
from otoscope.corpus.checks import class_support as class_support
from otoscope.corpus.checks import shared_recordings as shared_recordings
from otoscope.corpus.listing import CorpusSpec as CorpusSpec
from otoscope.corpus.listing import Listing as Listing
from otoscope.corpus.listing import UserPath as UserPath
from otoscope.corpus.splits import Splits as Splits
from otoscope.corpus.streaming import StreamedClip as StreamedClip
from otoscope.corpus.table import Corpus as Corpus
