"""Everything that otoscope raises on purpose.

OtoscopeError
├── ConfigError            a setting is unknown, missing or out of range
├── MissingExtra           an optional dependency is not installed
├── CorpusError            the clips or their table cannot be used
│   ├── AudioError         one recording cannot be decoded or holds no sound
│   └── SplitError         groups cannot be shared out as asked
├── EncoderError           a pretrained model cannot be used
│   ├── UnknownEncoder     no such model, folder or family
│   ├── UnknownLayer       the model has no such layer
│   └── WeightMismatch     a checkpoint lacks keys or brings keys of another model
├── ArtifactError          a file or folder that a stage wrote or reads
│   ├── DamagedArtifact    checksum, header or schema is wrong
│   ├── StaleArtifact      made from other inputs than those at hand
│   ├── IncompleteArtifact begun but never finished
│   └── StorageFull        no room left on the device
├── ExecutorError          workers failed or cannot be reached
├── InputError             an array or tensor given to a model has the wrong type, shape or values
├── TrainingError          rows or settings that no dictionary can be trained on
└── EvaluationError        arrays that a metric is not defined for
"""

from collections.abc import Iterable
from difflib import get_close_matches


class OtoscopeError(Exception):
    """Root of all errors that otoscope raises on purpose."""


class ConfigError(OtoscopeError):
    """A setting is unknown, missing or out of range."""


class MissingExtra(OtoscopeError):
    """An optional dependency is not installed; the message holds the install command."""


class CorpusError(OtoscopeError):
    """The clips or their table cannot be used."""


class AudioError(CorpusError):
    """One recording cannot be decoded or holds no sound."""


class SplitError(CorpusError):
    """Groups cannot be shared out between the splits as asked."""


class EncoderError(OtoscopeError):
    """A pretrained model cannot be used."""


class UnknownEncoder(EncoderError):
    """No such model, folder or family."""


class UnknownLayer(EncoderError):
    """The model has no such layer."""


class WeightMismatch(EncoderError):
    """A checkpoint lacks keys, or brings keys of another model."""


class ArtifactError(OtoscopeError):
    """A file or folder that a stage wrote or reads cannot be used."""


class DamagedArtifact(ArtifactError):
    """A checksum, header or schema is wrong."""


class StaleArtifact(ArtifactError):
    """The artifact was made from other inputs than those at hand."""


class IncompleteArtifact(ArtifactError):
    """The artifact was begun but never finished."""


class StorageFull(ArtifactError):
    """No room is left on the device that was to hold the artifact."""


class ExecutorError(OtoscopeError):
    """Workers on other processes or machines did not give back what they were asked for."""


class InputError(OtoscopeError, ValueError):
    """An array or tensor given to a model has the wrong type, shape or values."""


class TrainingError(OtoscopeError):
    """No dictionary can be trained on these rows with these settings."""


class EvaluationError(OtoscopeError):
    """A metric is not defined for these arrays."""


def suggest(name: object, known: Iterable[object]) -> str:
    """Return the end of an error message: the nearest of `known`, then all of them.

    >>> suggest("wavlmm", ["ast", "wavlm"])
    'did you mean wavlm? Known: ast, wavlm'
    """
    names = sorted(str(k) for k in known)
    near = [found for found in get_close_matches(str(name), names, n=1) if found != str(name)]
    listed = f"Known: {', '.join(names) or 'none'}"
    return f"did you mean {near[0]}? {listed}" if near else listed


def quote(value: object) -> str:
    r"""Return a value for a message as its owner wrote it: a text in quotes, backslashes single.

    >>> print(quote(r"(?P<group>speaker\d+)"), quote("two\nlines"), quote(3))
    '(?P<group>speaker\d+)' 'two\nlines' 3
    """
    return f"'{value}'" if isinstance(value, str) and value.isprintable() and "'" not in value else repr(value)
