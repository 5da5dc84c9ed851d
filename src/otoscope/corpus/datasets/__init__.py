"""Corpus kinds that read existing recordings, one module per kind.

- `FolderCorpus`: a folder of recordings, classes by sub-folder
- `ManifestCorpus`: a CSV, TSV or Parquet table with one row per clip
- `VocalSetCorpus`: VocalSet, twenty singers and seventeen techniques
- `FsddCorpus`: the Free Spoken Digit Dataset

To add a kind: subclass `otoscope.corpus.CorpusSpec` in a module here and add one line to
`otoscope.corpus.catalog.CORPORA`. Fields typed `UserPath` may be relative to the configuration file.
"""

from otoscope.corpus.datasets.folder import FolderCorpus as FolderCorpus
from otoscope.corpus.datasets.fsdd import FsddCorpus as FsddCorpus
from otoscope.corpus.datasets.manifest import ManifestCorpus as ManifestCorpus
from otoscope.corpus.datasets.vocalset import VocalSetCorpus as VocalSetCorpus
