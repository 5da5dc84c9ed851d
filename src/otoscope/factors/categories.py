"""What kind of property a factor is: seven categories over eGeMAPS and the synthesiser's factors.

The categories are those of arXiv:2509.24793 with two repairs. Its code counts logRelF0-H1-H2 and
-H1-A3 as pitch because their names hold "F0"; they are harmonic differences and stand under voice
quality here, as in eGeMAPS itself (Eyben et al., IEEE Trans. Affective Computing 7(2), 2016, who
put them beside jitter, shimmer and harmonics-to-noise). And loudnessPeaksPerSec is a rate, so
rhythm. That gives 10, 18, 10, 16, 17, 6 and 11 factors in the order of `CATEGORIES`.
"""

import re

CATEGORIES = ("pitch", "formants", "voice quality", "mfcc", "spectral", "rhythm", "loudness", "other")
"""In the order in which reports show them; "other" holds what no rule knows, such as users' own factors."""

_FUNCTIONAL = r"_sma3(nz)?_(amean|stddevNorm|percentile\d+\.0|pctlrange0-2|(mean|stddev)(Rising|Falling)Slope)"

_RULES: tuple[tuple[str, str], ...] = (
    # eGeMAPSv02
    ("pitch", r"F0semitoneFrom27\.5Hz" + _FUNCTIONAL),
    ("formants", r"F[123](frequency|bandwidth|amplitudeLogRelF0)" + _FUNCTIONAL),
    ("voice quality", r"(jitterLocal|shimmerLocaldB|HNRdBACF|logRelF0-H1-(H2|A3))" + _FUNCTIONAL),
    ("mfcc", r"mfcc[1-4]V?" + _FUNCTIONAL),
    ("spectral", r"(spectralFlux|alphaRatio|hammarbergIndex|slope)(U?V)?(0-500|500-1500)?" + _FUNCTIONAL),
    ("rhythm", r"(loudnessPeaks|VoicedSegments)PerSec"),
    ("rhythm", r"(Mean|Stddev)(VoicedSegmentLengthSec|UnvoicedSegmentLength)"),
    ("loudness", r"loudness" + _FUNCTIONAL),
    ("loudness", r"equivalentSoundLevel_dBp"),
    # the synthesiser
    ("pitch", r"f0_(mean_hz|std_semitones)|(vibrato|trill)_(rate_hz|extent_\w+|interval_semitones)"),
    ("formants", r"f[1-5]_hz|tract_length_cm"),
    ("voice quality", r"jitter|shimmer_db|aspiration_db|hnr_db|subharmonics|rd"),
    ("spectral", r"tilt_db_per_octave|ring_db"),
    ("rhythm", r"(pulse|lip)_(rate_hz|depth)|notes_per_s|voiced_share"),
    ("loudness", r"loudness_db"),
)


def category(factor: str) -> str:
    """Return the category of a factor's name; "other" for a name that no rule knows.

    >>> category("logRelF0-H1-H2_sma3nz_amean"), category("f2_hz"), category("valence")
    ('voice quality', 'formants', 'other')
    """
    return next((name for name, pattern in _RULES if re.fullmatch(pattern, factor)), "other")
