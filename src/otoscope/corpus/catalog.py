"""Corpus kinds by name, and the calls from settings to a corpus."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from otoscope.corpus.checks import check_clips, describe_set_aside
from otoscope.corpus.listing import CorpusSpec, Listing, ProgressCallback
from otoscope.corpus.selection import SelectableCorpus, choose_clips, with_channel
from otoscope.corpus.spelling import clean_listing
from otoscope.corpus.splits import Splits, assign_folds, assign_splits
from otoscope.corpus.table import COLUMNS, OPTIONAL, Corpus
from otoscope.errors import ConfigError, SplitError, quote, suggest
from otoscope.paths import user_path

Settings = Mapping[str, object]
Model = TypeVar("Model", bound=BaseModel)

CORPORA: dict[str, str] = {
    "folder": "otoscope.corpus.datasets.folder:FolderCorpus",
    "manifest": "otoscope.corpus.datasets.manifest:ManifestCorpus",
    "vocalset": "otoscope.corpus.datasets.vocalset:VocalSetCorpus",
    "fsdd": "otoscope.corpus.datasets.fsdd:FsddCorpus",
    "synth": "otoscope.corpus.synth.dataset:SynthCorpus",
}
"""Class of each corpus kind (a `CorpusSpec`), imported when needed."""


def corpus_class(kind: object) -> type[CorpusSpec]:
    """Return the class of a corpus kind; raise `ConfigError` with the nearest known kind."""
    if kind is None:
        raise ConfigError(f"corpus.kind is missing; {suggest('', CORPORA)}")
    if not isinstance(kind, str) or kind not in CORPORA:
        raise ConfigError(f"corpus.kind: no corpus kind {quote(kind)}; {suggest(kind, CORPORA)}")
    return resolve_name(CORPORA[kind])


def corpus_from_dict(settings: Settings) -> CorpusSpec:
    """Return the validated settings of a corpus, chosen by their `kind`.

    Raises `ConfigError` that names an unknown kind or key with the nearest known one, and every value out of range.

    >>> corpus_from_dict({"kind": "fsdd", "root": "recordings", "takes": 5}).kind
    'fsdd'
    """
    if "kind" not in settings and (near := get_close_matches("kind", map(str, settings), n=1)):
        raise ConfigError(f"unknown key corpus.{near[0]}; did you mean kind?")
    return validate_settings(corpus_class(settings.get("kind")), settings)


def validate_settings(model: type[Model], settings: Settings, *, section: str = "corpus") -> Model:
    """Return settings as a model; raise one `ConfigError` that lists every fault with its key."""
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        # a misspelt key is often the reason why another one is missing
        faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        described = dict.fromkeys(_describe(fault, model, section) for fault in faults)
        raise ConfigError("; ".join(described)) from error


def _describe(fault: ErrorDetails, model: type[BaseModel], section: str) -> str:
    """Return a validation error as a sentence: the key, what is wrong, and the value."""
    key = ".".join([section, *(str(part) for part in fault["loc"])])
    name = str(fault["loc"][-1]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}; {suggest(name, model.model_fields)}"
    if name == "[key]":
        return f"{key.rsplit('.', 2)[0]}: its codes must be text; write them in quotes, as in '0': zero"
    if fault["type"] == "missing":
        field = model.model_fields.get(name)
        return f"{key} is missing ({field.description})" if field and field.description else f"{key} is missing"
    if fault["type"] == "tuple_type":
        return f"{key}: got {quote(fault['input'])}; give a list, e.g. [{quote(fault['input'])}]"
    got = "" if isinstance(fault["input"], Mapping) else f"; got {quote(fault['input'])}"
    return f"{key}: {expectation(fault)}{got}"


def expectation(fault: ErrorDetails) -> str:
    """Return the value that is expected in the place of a wrong one, without names of Python."""
    kinds = {"path_type": "give a path"} | dict.fromkeys(
        SECTION_FAULTS, "give `key: value` lines under it, or remove it"
    )
    return kinds.get(fault["type"], fault["msg"].removeprefix("Value error, "))


SECTION_FAULTS = ("model_type", "dict_type", "model_attributes_type")
"""Types of validation errors of a value in the place of a section."""


def list_clips(spec: CorpusSpec, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:
    """List the clips of a corpus, with one spelling per group and class; raise `CorpusError` for unusable names."""
    listing = clean_listing(spec.listing(user_path(cache), on_progress=on_progress))
    if isinstance(spec, SelectableCorpus):
        listing = with_channel(listing, spec.channel)
        return choose_clips(listing, take=spec.take, max_clips=spec.max_clips)
    return listing


def build_corpus(
    spec: CorpusSpec,
    splits: Splits,
    *,
    cache: Path,
    fail_fast: bool = False,
    max_set_aside: float = 0.2,
    on_progress: ProgressCallback | None = None,
    threads: int | None = None,
    listing: Listing | None = None,
) -> Corpus:
    """List, check and split: from settings to a corpus of clips that can all be decoded.

    A generated corpus writes its audio to `cache`; `listing` is the result of `list_clips`, if known.

    Raises `CorpusError`, `SplitError` if groups cannot be assigned, and
    with `fail_fast` `AudioError` at the first unusable clip.
    """
    listing = listing or list_clips(spec, cache)
    clips, set_aside, suspects = check_clips(
        listing, fail_fast=fail_fast, max_set_aside=max_set_aside, on_progress=on_progress, threads=threads
    )
    try:
        clips = assign_splits(assign_folds(clips, splits), splits, stratify=True)
    except SplitError as error:
        if set_aside.is_empty():
            raise
        raise SplitError(f"{error}. {describe_set_aside(set_aside)}") from error
    extra = [name for name in clips.columns if name in OPTIONAL or name.startswith(("label_", "factor_"))]
    return Corpus(
        name=listing.name,
        root=listing.root.resolve(),
        clips=clips.select(*COLUMNS, *extra),
        set_aside=set_aside,
        suspects=suspects,
        licence=listing.licence,
        citation=listing.citation,
        group_noun=spec.group_noun,
    )
