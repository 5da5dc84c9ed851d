"""Strict loading of checkpoint folders: no missing, unexpected or misshapen weight."""

import hashlib
import json
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from otoscope.artifacts import digest
from otoscope.errors import EncoderError, UnknownEncoder, WeightMismatch

WEIGHT_PATTERNS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
)
"""Weight files, in order of preference."""

PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Either states the sample rate and the normalisation of the input."""


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of the first pattern that matches, sorted; empty if there are none."""
    for pattern in WEIGHT_PATTERNS:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def weights_digest(folder: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the weight files (of their digests if there are several)."""
    digests = [digest(file) for file in weight_files(folder)]
    combined = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return combined[:16]


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's `config.json`; raise `UnknownEncoder` if a required file is missing."""
    path = folder / "config.json"
    if not path.is_file():
        raise UnknownEncoder(f"{folder} is not a model folder: it has no config.json")
    if not weight_files(folder):
        raise UnknownEncoder(f"{folder} is not a model folder: it has neither model.safetensors nor pytorch_model.bin")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EncoderError(f"{path} is not valid JSON ({error}); download the model again") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise UnknownEncoder(f"{path} has no model_type, so the family of the model is unknown")
    return config


def load_extractor(extractor: type[Any], folder: Path) -> Any:
    """Load transformers' feature extractor of a folder; raise `EncoderError` if the folder does not describe one."""
    if not any((folder / name).is_file() for name in PREPROCESSOR_FILES):
        raise EncoderError(
            f"{folder} has no preprocessor_config.json, so neither the sample rate nor the normalisation of the "
            f"input is known; copy that file from the model's source"
        )
    try:
        with warnings.catch_warnings():
            # AST's lowest mel bands fall between two bins of its spectrum and are zero, also in training
            warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
            return extractor.from_pretrained(folder, local_files_only=True)
    except (OSError, TypeError, ValueError) as error:
        raise EncoderError(f"the preprocessor of {folder} cannot be read: {error}") from error


@contextmanager
def _silence_transformers() -> Generator[None]:
    """Silence transformers' load report and progress bar; problems are raised as errors instead."""
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
        with _silence_transformers():
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
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightMismatch(f"the weights in {folder} cannot be read as {architecture.__name__}: {reason}") from error
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
    return model.eval().requires_grad_(False)
