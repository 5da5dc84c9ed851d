"""Model folders: the files that transformers reads, their revision, and strict loading of configuration and weights."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import filter as matching
from logging import CRITICAL
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from otoscope.artifacts import digest
from otoscope.errors import EncoderError, UnknownEncoder, WeightMismatch
from otoscope.formatting import one_line
from otoscope.paths import open_regular

WHOLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Weights in one file, in order of preference; shards and their index are named after it."""

PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Either describes the input: its sample rate and normalisation."""


def weight_names(names: Iterable[str]) -> list[str]:
    """Return the weight files that transformers reads from a folder: one file, or an index and its shards.

    >>> weight_names(["model.safetensors.index.json", "model-00001-of-00001.safetensors", "pytorch_model.bin"])
    ['model.safetensors.index.json', 'model-00001-of-00001.safetensors']
    """
    available = set(names)
    for whole in WHOLE_WEIGHTS:
        if whole in available:
            return [whole]
        if (index := f"{whole}.index.json") in available:
            return [index, *_shard_names(available, whole)]
    return []


def _shard_names(names: Iterable[str], whole: str) -> list[str]:
    stem, suffix = whole.split(".")
    return sorted(matching(names, f"{stem}-*-of-*.{suffix}"))


def file_names(folder: Path) -> list[str]:
    """Return the names of the files in a folder, without links that lead nowhere; empty if there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if os.path.isfile(folder / name))  # noqa: PTH113, PTH208
    except (OSError, ValueError):
        return []


def is_complete(folder: Path) -> bool:
    """Return true if a folder has a configuration, a preprocessor and all of its weights."""
    names = file_names(folder)
    described = "config.json" in names and any(name in names for name in PREPROCESSOR_FILES)
    try:
        return described and bool(_require_weights(folder))
    except EncoderError:
        return False


def folder_revision(folder: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of every file that affects the output; empty without weights.

    These are the configuration, the preprocessor and the weights with their index. Tokenizers and generation settings
    have no effect.
    """
    names = file_names(folder)
    weights = weight_names(names)
    if not weights:
        return ""
    read = sorted({*matching(names, "config*.json"), *(n for n in names if n in PREPROCESSOR_FILES), *weights})
    lines = [f"{name} {digest(folder / name)}\n" for name in read]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's `config.json`.

    Raises `UnknownEncoder` if that file or the weights are missing or name no family, `EncoderError` if weights are
    incomplete or the folder holds an adapter.
    """
    names = file_names(folder)
    if "config.json" not in names:
        raise UnknownEncoder(f"{folder} is not a model folder: it has no config.json")
    _require_weights(folder)
    if "adapter_config.json" in names:
        # transformers would load the base model that it names, but only where the package peft is installed
        raise EncoderError(f"{folder} holds an adapter (adapter_config.json); merge it into the weights and save those")
    config = _read_mapping(folder / "config.json")
    family = config.get("model_type")
    if not isinstance(family, str):
        state = "has no model_type" if family is None else f"has the model_type {family!r}, which is not text"
        raise UnknownEncoder(f"{folder / 'config.json'} {state}, so the family of the model is unknown")
    return config


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder's feature extractor, from the file that transformers prefers.

    Raises `EncoderError` if no file describes one.
    """
    preprocessor, processor = (folder / name for name in PREPROCESSOR_FILES)
    if processor.is_file():
        nested = _read_mapping(processor)
        for key in ("feature_extractor", "audio_processor"):
            if key in nested:
                return _as_mapping(nested[key], f"{key} of {processor}")
    if preprocessor.is_file():
        return _read_mapping(preprocessor)
    raise EncoderError(
        f"{folder} has no preprocessor_config.json, so neither the sample rate nor the normalisation of the input is "
        "known; copy that file from the model's source"
    )


def _require_weights(folder: Path) -> list[str]:
    """Return the weight files of a folder; raise `EncoderError` if shards or their index are missing."""
    names = file_names(folder)
    weights = weight_names(names)
    if not weights:
        for whole in WHOLE_WEIGHTS:
            if shards := _shard_names(names, whole):
                raise EncoderError(
                    f"{folder} holds {len(shards)} shard(s) of weights without their index {whole}.index.json; copy "
                    "that file from the model's source"
                )
        raise UnknownEncoder(f"{folder} is not a model folder: it has neither {' nor '.join(WHOLE_WEIGHTS)}")
    if weights[0].endswith(".index.json"):
        listed = _as_mapping(_read_mapping(folder / weights[0]).get("weight_map"), f"weight_map of {weights[0]}")
        if missing := sorted({str(name) for name in listed.values()} - set(weights)):
            raise EncoderError(
                f"{weights[0]} in {folder} lists shards that are not there: {', '.join(missing[:5])}; download the "
                "model again"
            )
    return weights


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            value = json.load(file)
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{path} is not valid JSON ({error}); download the model again") from error
    except OSError as error:
        raise EncoderError(f"{path} cannot be read ({error.strerror}); download the model again") from error
    return _as_mapping(value, str(path))


def _as_mapping(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise EncoderError(f"{place} is {type(value).__name__}, expected a JSON object; download the model again")
    return {str(key): item for key, item in value.items()}


INVALID_SETTINGS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError,
    StrictDataclassError, TypeError, ValueError,
)  # fmt: skip
"""Errors of transformers for files that it cannot use."""


def _line(error: Exception) -> str:
    """Return an error's message on one line, or its type if it has none."""
    return one_line(error, 300) or type(error).__name__


def load_config(kind: type[Any], folder: Path) -> Any:
    """Load a folder's configuration with a class of transformers; raise `EncoderError` if a setting is invalid."""
    try:
        config = kind.from_pretrained(folder, local_files_only=True)
    except INVALID_SETTINGS as error:
        raise EncoderError(f"{folder / 'config.json'} is not a valid {kind.__name__}: {_line(error)}") from error
    for key, value in vars(config).items():
        if key.endswith("attention_heads") and not (isinstance(value, int) and value >= 1):
            raise EncoderError(f"{folder / 'config.json'} has {key}: {value!r}; allowed: 1 and more")
    config.output_hidden_states = config.output_attentions = False
    return config


LARGEST_SETTING = 1e9
"""Largest number of a preprocessor; larger ones give states that are not finite."""


def load_extractor(kind: type[Any], folder: Path, *, required: Sequence[str] = ()) -> Any:
    """Load a folder's feature extractor with a class of transformers.

    Raises `EncoderError` if the folder describes none or one of another class, or lacks the sample rate or one of the
    `required` settings: transformers would use a default.
    """
    settings = read_preprocessor(folder)
    stated = settings.get("feature_extractor_type", kind.__name__)
    if stated != kind.__name__:
        raise EncoderError(
            f"the preprocessor of {folder} is a {stated}, this model needs a {kind.__name__}; copy the file from the "
            "model's source"
        )
    if missing := [key for key in ("sampling_rate", *required) if settings.get(key) is None]:
        raise EncoderError(
            f"the preprocessor of {folder} has no {' and no '.join(missing)}, and no default is safe; copy the file "
            "from the model's source"
        )
    rate_hz, normalised = settings["sampling_rate"], settings.get("do_normalize", False)
    if type(rate_hz) is not int or rate_hz < 1:
        raise EncoderError(f"the preprocessor of {folder} has sampling_rate: {rate_hz!r}; it must be a whole number")
    for key, value in settings.items():
        if isinstance(value, int | float) and not abs(value) <= LARGEST_SETTING:
            raise EncoderError(
                f"the preprocessor of {folder} has {key}: {value:g}; its numbers are at most {LARGEST_SETTING:g}"
            )
    if not isinstance(normalised, bool):
        raise EncoderError(f"the preprocessor of {folder} has do_normalize: {normalised!r}; it must be true or false")
    try:
        with warnings.catch_warnings():
            # AST's lowest mel bands fall between two bins of its spectrum and are zero, also in training
            warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
            return kind.from_pretrained(folder, local_files_only=True)
    except INVALID_SETTINGS as error:
        raise EncoderError(f"the preprocessor of {folder} is not a valid {kind.__name__}: {_line(error)}") from error


def require_equal(name: str, quantity: str, preprocessor: object, model: object) -> None:
    """Raise `EncoderError` unless preprocessor and model agree about their input."""
    if preprocessor != model:
        raise EncoderError(
            f"{name}: {quantity} is {preprocessor} in the preprocessor and {model} in the model; they must agree: copy "
            "both files from the same source"
        )


@contextmanager
def silence_transformers() -> Generator[None]:
    """Silence the log and the progress bars of transformers; problems are raised as errors instead."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _list_keys(title: str, keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    return f"{title} {len(keys)}: {shown}"


def load_weights(
    architecture: type[Any],
    folder: Path,
    *,
    config: Any,
    attention: str,
    optional: Sequence[str] = (),
    ignored: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> Any:
    """Load a folder's weights into an architecture: float32, eval mode, frozen.

    `optional` and `ignored` are regular expressions of keys that may be missing or left over in the checkpoint (task
    heads, parts used in training only); `rename` maps key patterns as transformers' `key_mapping` does. transformers
    itself maps both spellings of a weight-normalised convolution (`weight_g`, `weight_v` and
    `parametrizations.weight.original0`, `original1`) and other old names. Raises `WeightMismatch` for any other
    missing, unexpected or misshapen key.
    """
    try:
        with silence_transformers():
            model, report = architecture.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                attn_implementation=attention,
                key_mapping=dict(rename) if rename else None,
                ignore_mismatched_sizes=True,  # all are reported below by name, not only the first
                local_files_only=True,
                output_loading_info=True,
            )
    except UnpicklingError as error:
        raise WeightMismatch(
            f"the weights in {folder} are a pickle that holds more than tensors, and opening it could run code: "
            "otoscope does not open it; use the model's safetensors file"
        ) from error
    except (*INVALID_SETTINGS, EOFError, SafetensorError) as error:
        raise WeightMismatch(
            f"the weights in {folder} cannot be read as {architecture.__name__}: {_line(error)}"
        ) from error
    missing = sorted(k for k in report["missing_keys"] if not any(re.search(p, k) for p in optional))
    unexpected = sorted(k for k in report["unexpected_keys"] if not any(re.search(p, k) for p in ignored))
    misshapen = sorted(f"{key} {tuple(got)} for {tuple(want)}" for key, got, want in report["mismatched_keys"])
    faults = [
        _list_keys(title, keys)
        for title, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if keys
    ]
    if faults:
        raise WeightMismatch(
            f"the weights in {folder} are not those of {architecture.__name__}: {'; '.join(faults)}. "
            "Download the checkpoint again, or name the model it belongs to"
        )
    _require_finite(model, folder)
    return model.eval().requires_grad_(False)


def _require_finite(model: nn.Module, folder: Path) -> None:
    """Raise `WeightMismatch` for weights that are NaN or infinite."""
    tensors = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    # a sum is cheaper than a mask; one that overflows is checked by the mask
    bad = [name for name, value in tensors.items() if not value.sum().isfinite() and not value.isfinite().all()]
    if bad:
        raise WeightMismatch(
            f"the weights in {folder} hold NaN or infinite values, {_list_keys('in', bad)}; download the model again"
        )
