"""Names of factors: as a reader would say them ("pitch (median, semitones)" for an eGeMAPS identifier), and categories.

Seven categories cover eGeMAPS and the factors of the synthesiser. They are those of arXiv:2509.24793
with two corrections. Its code counts logRelF0-H1-H2 and -H1-A3 as pitch because their names contain
"F0"; they are harmonic differences and belong to voice quality, as in eGeMAPS itself (Eyben et al.,
IEEE Trans. Affective Computing 7(2), 2016, who group them with jitter, shimmer and
harmonics-to-noise). And loudnessPeaksPerSec is a rate and belongs to rhythm. The result is 10, 18, 10,
16, 17, 6 and 11 factors in the order of `CATEGORIES`.
"""

import re

_DESCRIPTORS: dict[str, tuple[str, str]] = {
    "F0semitoneFrom27.5Hz": ("pitch", "semitones"),
    "loudness": ("loudness", ""),
    "spectralFlux": ("spectral flux", ""),
    "jitterLocal": ("jitter", ""),
    "shimmerLocaldB": ("shimmer", "dB"),
    "HNRdBACF": ("harmonics-to-noise ratio", "dB"),
    "logRelF0-H1-H2": ("level of H1 relative to H2", "dB"),
    "logRelF0-H1-A3": ("level of H1 relative to F3", "dB"),
    "alphaRatio": ("alpha ratio", "dB"),
    "hammarbergIndex": ("Hammarberg index", "dB"),
    "slope0-500": ("spectral slope 0 to 500 Hz", ""),
    "slope500-1500": ("spectral slope 500 to 1500 Hz", ""),
    **{f"mfcc{n}": (f"MFCC {n}", "") for n in range(1, 5)},
    **{f"F{n}frequency": (f"F{n} frequency", "Hz") for n in range(1, 4)},
    **{f"F{n}bandwidth": (f"F{n} bandwidth", "Hz") for n in range(1, 4)},
    # openSMILE gives unvoiced frames this level, and functionals average over all frames
    **{f"F{n}amplitudeLogRelF0": (f"F{n} level relative to f0 with -201 dB if unvoiced", "dB") for n in range(1, 4)},
}
"""Readable name and unit of each low-level descriptor of eGeMAPSv02."""

_STATISTICS: dict[str, tuple[str, str]] = {
    "amean": ("mean", "{unit}"),
    "stddevNorm": ("relative standard deviation", ""),
    "percentile20.0": ("20th percentile", "{unit}"),
    "percentile50.0": ("median", "{unit}"),
    "percentile80.0": ("80th percentile", "{unit}"),
    "pctlrange0-2": ("20th to 80th percentile range", "{unit}"),
    "meanRisingSlope": ("mean rising slope", "{unit} per s"),
    "stddevRisingSlope": ("standard deviation of rising slopes", "{unit} per s"),
    "meanFallingSlope": ("mean falling slope", "{unit} per s"),
    "stddevFallingSlope": ("standard deviation of falling slopes", "{unit} per s"),
}
"""Readable name of each functional, and its unit in terms of the descriptor's."""

_SEGMENTS: dict[str, str] = {
    "loudnessPeaksPerSec": "loudness peaks (per s)",
    "VoicedSegmentsPerSec": "voiced segments (per s)",
    "MeanVoicedSegmentLengthSec": "voiced segment length (mean, s)",
    "StddevVoicedSegmentLengthSec": "voiced segment length (standard deviation, s)",
    "MeanUnvoicedSegmentLength": "unvoiced segment length (mean, s)",
    "StddevUnvoicedSegmentLength": "unvoiced segment length (standard deviation, s)",
    "equivalentSoundLevel_dBp": "equivalent sound level (dB)",
}
"""Functionals of a whole clip."""

_UNITS: dict[str, str] = {
    "db_per_octave": "dB per octave",
    "semitones": "semitones",
    "per_s": "per s",
    "cents": "cents",
    "hz": "Hz",
    "db": "dB",
    "cm": "cm",
    "ms": "ms",
    "s": "s",
}
"""Units that a factor's name may end with, and their spelling."""

_FUNCTIONAL = re.compile(r"(?P<descriptor>.+?)_sma3(?:nz)?_(?P<statistic>.+)")
_VOICING = re.compile(r"(?P<start>[A-Za-z]+?\d?)(?P<voicing>UV|V)(?P<band>\d.*)?")
_WITH_UNIT = re.compile(r"(?P<name>.*?[a-z0-9])_(?P<unit>" + "|".join(_UNITS) + ")")


def readable_name(factor: str) -> str:
    """Return the name of a factor in words with its unit; unknown names stay as they are.

    The 88 functionals of eGeMAPSv02 are known. In any other name, a unit at the end is spelled out.

    >>> readable_name("F0semitoneFrom27.5Hz_sma3nz_percentile50.0"), readable_name("slopeUV0-500_sma3nz_amean")
    ('pitch (median, semitones)', 'spectral slope 0 to 500 Hz (mean, unvoiced frames)')
    >>> readable_name("vibrato_rate_hz"), readable_name("valence")
    ('vibrato rate (Hz)', 'valence')
    """
    if factor in _SEGMENTS:
        return _SEGMENTS[factor]
    if functional := _FUNCTIONAL.fullmatch(factor):
        return _functional(functional["descriptor"], functional["statistic"]) or factor
    if named := _WITH_UNIT.fullmatch(factor):
        return f"{named['name'].replace('_', ' ')} ({_UNITS[named['unit']]})"
    return factor


def _functional(descriptor: str, statistic: str) -> str | None:
    """Return the readable name of a functional of a descriptor; None if either is unknown."""
    voicing = ""
    if descriptor not in _DESCRIPTORS and (parts := _VOICING.fullmatch(descriptor)):
        descriptor = parts["start"] + (parts["band"] or "")
        voicing = {"V": "voiced frames", "UV": "unvoiced frames"}[parts["voicing"]]
    if descriptor not in _DESCRIPTORS or statistic not in _STATISTICS:
        return None
    name, unit = _DESCRIPTORS[descriptor]
    words, unit_pattern = _STATISTICS[statistic]
    details = (words, voicing, unit_pattern.format(unit=unit).strip())
    return f"{name} ({', '.join(filter(None, details))})"


CATEGORIES = ("pitch", "formants", "voice quality", "mfcc", "spectral", "rhythm", "loudness", "other")
"""Categories in report order; "other" is everything else, such as users' own factors."""

_SUFFIX = r"_sma3(nz)?_(amean|stddevNorm|percentile\d+\.0|pctlrange0-2|(mean|stddev)(Rising|Falling)Slope)"

_RULES: tuple[tuple[str, str], ...] = (
    # eGeMAPSv02
    ("pitch", r"F0semitoneFrom27\.5Hz" + _SUFFIX),
    ("formants", r"F[123](frequency|bandwidth|amplitudeLogRelF0)" + _SUFFIX),
    ("voice quality", r"(jitterLocal|shimmerLocaldB|HNRdBACF|logRelF0-H1-(H2|A3))" + _SUFFIX),
    ("mfcc", r"mfcc[1-4]V?" + _SUFFIX),
    ("spectral", r"(spectralFlux|alphaRatio|hammarbergIndex|slope)(U?V)?(0-500|500-1500)?" + _SUFFIX),
    ("rhythm", r"(loudnessPeaks|VoicedSegments)PerSec"),
    ("rhythm", r"(Mean|Stddev)(VoicedSegmentLengthSec|UnvoicedSegmentLength)"),
    ("loudness", r"loudness" + _SUFFIX),
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
    """Return the category of a factor's name; "other" for an unknown name.

    >>> category("logRelF0-H1-H2_sma3nz_amean"), category("f2_hz"), category("valence")
    ('voice quality', 'formants', 'other')
    """
    return next((name for name, pattern in _RULES if re.fullmatch(pattern, factor)), "other")
