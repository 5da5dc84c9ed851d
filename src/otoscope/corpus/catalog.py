"""Every kind of corpus by name, and the one call from settings to a corpus."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from otoscope.corpus.checks import check_clips
from otoscope.corpus.listing import CorpusSpec, ProgressCallback
from otoscope.corpus.splits import Splits, assign_splits
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.errors import ConfigError, spelt, suggest

Settings = Mapping[str, object]
Model = TypeVar("Model", bound=BaseModel)


def _folder(settings: Settings) -> CorpusSpec:
    from otoscope.corpus.datasets.folder import FolderCorpus

    return validate_settings(FolderCorpus, settings)


def _manifest(settings: Settings) -> CorpusSpec:
    from otoscope.corpus.datasets.manifest import ManifestCorpus

    return validate_settings(ManifestCorpus, settings)


def _vocalset(settings: Settings) -> CorpusSpec:
    from otoscope.corpus.datasets.vocalset import VocalSetCorpus

    return validate_settings(VocalSetCorpus, settings)


def _fsdd(settings: Settings) -> CorpusSpec:
    from otoscope.corpus.datasets.fsdd import FsddCorpus

    return validate_settings(FsddCorpus, settings)


def _synth(settings: Settings) -> CorpusSpec:
    from otoscope.corpus.synth.dataset import SynthCorpus

    return validate_settings(SynthCorpus, settings)


CORPORA: dict[str, Callable[[Settings], CorpusSpec]] = {
    "folder": _folder,
    "manifest": _manifest,
    "vocalset": _vocalset,
    "fsdd": _fsdd,
    "synth": _synth,
}
"""Kinds of corpora: each name gives the validated settings of its loader, imported when asked for."""


def corpus_from_dict(settings: Settings) -> CorpusSpec:
    """Return the validated settings of a corpus, chosen by their `kind`.

    Raises `ConfigError` that names an unknown kind or key with the nearest known one, and every value out of range.

    >>> corpus_from_dict({"kind": "fsdd", "root": "recordings", "takes": 5}).kind
    'fsdd'
    """
    kind = settings.get("kind")
    if kind is None:
        raise ConfigError(f"corpus.kind is missing; {suggest('', CORPORA)}")
    if not isinstance(kind, str) or kind not in CORPORA:
        raise ConfigError(f"no corpus kind {kind!r}; {suggest(kind, CORPORA)}")
    return CORPORA[kind](settings)


def validate_settings(model: type[Model], settings: Settings, *, section: str = "corpus") -> Model:
    """Return settings as a model; every fault is told in one `ConfigError`, in the user's own terms."""
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        faults = [_told(fault, model, section) for fault in error.errors()]
        raise ConfigError("; ".join(faults)) from error


def _told(fault: ErrorDetails, model: type[BaseModel], section: str) -> str:
    """Return one fault of a validation in a sentence: where, what is wrong, what was given."""
    key = ".".join([section, *(str(part) for part in fault["loc"])])
    name = str(fault["loc"][-1]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}; {suggest(name, model.model_fields)}"
    if fault["type"] == "missing":
        field = model.model_fields.get(name)
        return f"{key} is missing ({field.description})" if field and field.description else f"{key} is missing"
    got = "" if isinstance(fault["input"], Mapping) else f"; got {spelt(fault['input'])}"
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}{got}"


def build_corpus(
    spec: CorpusSpec,
    splits: Splits,
    *,
    cache: Path,
    fail_fast: bool = False,
    max_set_aside: float = 0.2,
    on_progress: ProgressCallback | None = None,
    threads: int | None = None,
) -> Corpus:
    """List, inspect and split: from settings to a corpus of clips that can all be decoded.

    `cache` is where a generated corpus writes its sound. Raises `CorpusError`, with `strict` also
    `AudioError` at the first clip that cannot be used, and `SplitError` when groups cannot be dealt.
    """
    listing = spec.listing(cache)
    clips, set_aside = check_clips(
        listing, fail_fast=fail_fast, max_set_aside=max_set_aside, on_progress=on_progress, threads=threads
    )
    known = [name for name in clips.columns if name.startswith(("label_", "factor_"))]
    return Corpus(
        name=listing.name,
        root=listing.root.resolve(),
        clips=assign_splits(clips, splits).select(*COLUMNS, *known),
        set_aside=set_aside,
        licence=listing.licence,
        citation=listing.citation,
    )
