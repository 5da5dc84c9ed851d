"""Files of a model folder: which of them transformers reads, their revision, and checks before anything is loaded."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

from otoscope.artifacts import digest
from otoscope.errors import EncoderError, UnknownEncoder
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
