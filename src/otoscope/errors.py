"""Exceptions of otoscope, and helpers for their messages.

OtoscopeError
├── ConfigError            a setting is unknown, missing or out of range
├── MissingExtra           an optional dependency is not installed
├── CorpusError            the clips or their table cannot be used
│   ├── AudioError         one recording cannot be decoded or holds no sound
│   └── SplitError         groups cannot be split as requested
├── EncoderError           a pretrained model cannot be used
│   ├── UnknownEncoder     no such model, folder or family
│   ├── UnknownLayer       the model has no such layer
│   └── WeightMismatch     a checkpoint has missing or unexpected keys
├── ArtifactError          a file or folder that a stage wrote or reads
│   ├── DamagedArtifact    checksum, header or schema is wrong
│   ├── StaleArtifact      made from other inputs than the current ones
│   ├── IncompleteArtifact started but not finished
│   └── StorageFull        no space left on the device
├── ExecutorError          workers failed or cannot be reached
├── InputError             an array or tensor given to a model has the wrong type, shape or values
├── TrainingError          rows or settings that no SAE can be trained on
└── EvaluationError        arrays for which a metric is not defined
"""

from collections.abc import Iterable
from difflib import get_close_matches


class OtoscopeError(Exception):
    """Base class of all errors that otoscope raises."""


class ConfigError(OtoscopeError):
    """A setting is unknown, missing or out of range."""


class MissingExtra(OtoscopeError):
    """An optional dependency is not installed; the message holds the install command."""


class CorpusError(OtoscopeError):
    """The clips or their table cannot be used."""


class AudioError(CorpusError):
    """One recording cannot be decoded or holds no sound."""


class SplitError(CorpusError):
    """Groups cannot be split as requested."""


class EncoderError(OtoscopeError):
    """A pretrained model cannot be used."""


class UnknownEncoder(EncoderError):
    """No such model, folder or family."""


class UnknownLayer(EncoderError):
    """The model has no such layer."""


class WeightMismatch(EncoderError):
    """A checkpoint has missing or unexpected keys."""


class ArtifactError(OtoscopeError):
    """A file or folder that a stage wrote or reads cannot be used."""


class DamagedArtifact(ArtifactError):
    """A checksum, header or schema is wrong."""


class StaleArtifact(ArtifactError):
    """The artifact was made from other inputs than the current ones."""


class IncompleteArtifact(ArtifactError):
    """The artifact was started but not finished."""


class StorageFull(ArtifactError):
    """No space is left on the device."""


class ExecutorError(OtoscopeError):
    """Workers in other processes or on other machines failed or cannot be reached."""


class InputError(OtoscopeError, ValueError):
    """An array or tensor given to a model has the wrong type, shape or values."""


class TrainingError(OtoscopeError):
    """No SAE can be trained on these rows with these settings."""


class EvaluationError(OtoscopeError):
    """A metric is not defined for these arrays."""


MAX_QUOTED = 200
"""Characters of a quoted value in a message."""

MAX_KNOWN = 60
"""Names listed in a message."""


def suggest(name: object, known: Iterable[object]) -> str:
    """Return the end of an error message: the most similar of `known`, then all of them, or the first of very many.

    >>> suggest("wavlmm", ["ast", "wavlm"])
    'did you mean wavlm? Known: ast, wavlm'
    """
    names = sorted(str(k) for k in known)
    near = [match for match in get_close_matches(str(name)[:MAX_QUOTED], names, n=1) if match != str(name)]
    more = f", and {len(names) - MAX_KNOWN:,} more" if len(names) > MAX_KNOWN else ""
    listed = f"{'Known' if near else 'known'}: {', '.join(map(_shortened, names[:MAX_KNOWN])) or 'none'}{more}"
    return f"did you mean {near[0]}? {listed}" if near else listed


def quote(value: object) -> str:
    r"""Return a value as the user wrote it: text in quotes, without escaped backslashes; a very long one is cut.

    >>> print(quote(r"(?P<group>speaker\d+)"), quote("two\nlines"), quote(3), quote(True), quote(None))
    '(?P<group>speaker\d+)' 'two\nlines' 3 true nothing
    """
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    if isinstance(value, str) and value.isprintable() and "'" not in value:
        return f"'{_shortened(value)}'"
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 3]}..."
