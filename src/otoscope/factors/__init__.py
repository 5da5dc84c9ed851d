"""Factors: numbers that describe a clip, to be predicted from its representation.

- `build_factors`: all factors of a corpus in one `FactorTable`
- `measure_egemaps`: the 88 eGeMAPSv02 functionals through openSMILE (extra `factors`)
- `read_user_table`: the user's own CSV or Parquet table
- `read_annotations`, `AnnotationFolder`: labelled intervals from TextGrid, Audacity, Raven, JAMS, ELAN and other files
- `category`: pitch, formants, voice quality, ... of a factor's name
- `readable_name`: a factor's name in words with its unit
- `logmel_statistics`: mean and standard deviation of log-mel energies, a baseline representation
"""

from otoscope.factors.annotation_folder import AnnotationFolder as AnnotationFolder
from otoscope.factors.annotations import AnnotatedInterval as AnnotatedInterval
from otoscope.factors.annotations import read_annotations as read_annotations
from otoscope.factors.egemaps import measure_egemaps as measure_egemaps
from otoscope.factors.logmel import logmel_statistics as logmel_statistics
from otoscope.factors.readable_names import CATEGORIES as CATEGORIES
from otoscope.factors.readable_names import category as category
from otoscope.factors.readable_names import readable_name as readable_name
from otoscope.factors.table import FactorCard as FactorCard
from otoscope.factors.table import FactorTable as FactorTable
from otoscope.factors.table import build_factors as build_factors
from otoscope.factors.table import read_user_table as read_user_table
