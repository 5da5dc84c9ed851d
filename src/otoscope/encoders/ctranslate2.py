"""Reader of CTranslate2 Whisper models; returns weights under their Hugging Face names.

A `model.bin` (binary version 4 and later, little-endian; OpenNMT CTranslate2, `python/ctranslate2/specs/model_spec.py`)
is a header (u32 version, string specification, u32 revision), then a u32 count of variables, each a string name,
u8 rank, u32 dimensions, u8 type, u32 bytes and the data, then a u32 count of aliases, each two strings.
A string is a u16 length, its bytes and a closing NUL within that length.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import EncoderError

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
