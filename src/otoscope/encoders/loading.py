"""Strict loading of checkpoint folders: no missing, unexpected or misshapen weight."""

import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from otoscope.encoders.model_folder import read_preprocessor
from otoscope.errors import EncoderError, WeightMismatch
from otoscope.formatting import one_line

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
    config.output_hidden_states = config.output_attentions = False
    return config


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
