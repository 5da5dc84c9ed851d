"""The reader of CTranslate2 models, on models written here byte by byte."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.encoders.starter import TYPES, count_blocks, huggingface_weights, read_ct2, require_plain_whisper
from otoscope.errors import EncoderError

CODES = {dtype.str: code for code, dtype in TYPES.items()}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def written(variables, aliases=None, *, version=6, specification="WhisperSpec") -> bytes:
    out = struct.pack("<I", version) + text(specification) + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        out += text(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        out += struct.pack("<BI", CODES[array.dtype.str], array.nbytes)
        out += array.tobytes()
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"} if aliases is None else aliases
    return out + struct.pack("<I", len(aliases)) + b"".join(text(k) + text(v) for k, v in aliases.items())


def whisper_variables(*, width=4, blocks=2):
    rng = np.random.default_rng(0)
    variables = {}

    def put(name, *shape, bias=None, scale="weight", shift="bias"):
        variables[f"{name}/{scale}"] = rng.normal(size=shape).astype(np.float16)
        variables[f"{name}/{shift}"] = np.asarray(rng.normal(size=shape[0]) if bias is None else bias, dtype=np.float16)

    def stacked(name, projections, key):
        bias = rng.normal(size=(projections, width))
        bias[key] = 0.0
        put(name, projections * width, width, bias=bias.reshape(-1))

    for side in ("encoder", "decoder"):
        variables[f"{side}/position_encodings/encodings"] = rng.normal(size=(6, width)).astype(np.float16)
        put(f"{side}/layer_norm", width, scale="gamma", shift="beta")
        for i in range(blocks):
            here = f"{side}/layer_{i}"
            put(f"{here}/self_attention/layer_norm", width, scale="gamma", shift="beta")
            stacked(f"{here}/self_attention/linear_0", 3, 1)
            put(f"{here}/self_attention/linear_1", width, width)
            put(f"{here}/ffn/layer_norm", width, scale="gamma", shift="beta")
            put(f"{here}/ffn/linear_0", 8, width)
            put(f"{here}/ffn/linear_1", width, 8)
            if side == "decoder":
                put(f"{here}/attention/layer_norm", width, scale="gamma", shift="beta")
                put(f"{here}/attention/linear_0", width, width)
                stacked(f"{here}/attention/linear_1", 2, 0)
                put(f"{here}/attention/linear_2", width, width)
    variables["encoder/conv1/weight"] = rng.normal(size=(width, 3, 3)).astype(np.float16)
    variables["encoder/conv2/weight"] = rng.normal(size=(width, width, 3)).astype(np.float16)
    for conv in ("conv1", "conv2"):
        variables[f"encoder/{conv}/bias"] = rng.normal(size=width).astype(np.float16)
    variables["decoder/embeddings/weight"] = rng.normal(size=(7, width)).astype(np.float16)
    variables["decoder/scale_embeddings"] = np.array(0, dtype=np.int8)
    variables["encoder/num_heads"] = np.array(2, dtype=np.int16)
    return variables


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=3), st.sampled_from(sorted(CODES)), st.integers(0, 2**16))
def test_what_is_written_is_read_back(shape, dtype, seed):
    array = np.random.default_rng(seed).integers(-100, 100, size=shape).astype(dtype)
    model = read_ct2(memoryview(written({"a/b": array, "c": array * 0}, {"x": "a/b"})))
    assert model.specification == "WhisperSpec"
    assert model.aliases == {"x": "a/b"}
    np.testing.assert_array_equal(model.variables["a/b"], array)


def test_stacked_projections_come_apart_and_key_biases_fall_out():
    variables = whisper_variables()
    model = read_ct2(memoryview(written(variables)))
    require_plain_whisper(model)
    weights = huggingface_weights(model)
    stack = variables["decoder/layer_1/attention/linear_1/weight"]
    np.testing.assert_array_equal(weights["model.decoder.layers.1.encoder_attn.k_proj.weight"], stack[:4])
    np.testing.assert_array_equal(weights["model.decoder.layers.1.encoder_attn.v_proj.weight"], stack[4:])
    assert not any(name.endswith("k_proj.bias") for name in weights)
    assert count_blocks(variables, "encoder") == 2  # "encoder/layer_norm" is no block


def test_the_names_are_those_of_transformers():
    import transformers

    config = transformers.WhisperConfig(
        d_model=4, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=8, decoder_ffn_dim=8, num_mel_bins=3,
        encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=7, max_source_positions=6,
        max_target_positions=6, pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.WhisperForConditionalGeneration(config).state_dict()
    ours = huggingface_weights(read_ct2(memoryview(written(whisper_variables()))))
    assert set(ours) == set(theirs) - {"proj_out.weight"}  # tied to the embeddings
    assert all(ours[name].shape == tuple(theirs[name].shape) for name in ours)


@pytest.mark.parametrize("cut", [3, 40, 200, -1])
def test_a_model_cut_short_is_refused(cut):
    data = written({"a": np.zeros((8, 8), dtype=np.float32)})
    with pytest.raises(EncoderError, match="ends early"):
        read_ct2(memoryview(data[:cut]))


def test_bytes_too_many_and_old_versions_are_refused():
    data = written({"a": np.zeros(3, dtype=np.float32)})
    with pytest.raises(EncoderError, match="2 bytes too many"):
        read_ct2(memoryview(data + b"xx"))
    with pytest.raises(EncoderError, match="binary version 3"):
        read_ct2(memoryview(written({}, version=3)))


def spoiled(change):
    variables = whisper_variables()
    change(variables)
    return variables


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update({"decoder/pre_norm": np.array(0, dtype=np.int8)}), "decoder/pre_norm of model.bin is 0"),
        (lambda v: v.update({"encoder/conv1/weight": np.zeros((4, 3), dtype=np.int8)}), "quantised"),
        (lambda v: v.pop("encoder/layer_1/ffn/linear_0/bias"), "lacks encoder/layer_1/ffn/linear_0/bias"),
        (lambda v: v.update({"stray": np.zeros(2, dtype=np.float16)}), "arrays that no Whisper has: stray"),
        (lambda v: v["encoder/layer_0/self_attention/linear_0/bias"].fill(1), "key bias of encoder/layer_0"),
    ],
)
def test_what_the_mapping_does_not_cover_is_refused(change, said):
    model = read_ct2(memoryview(written(spoiled(change))))
    with pytest.raises(EncoderError, match=said):
        (require_plain_whisper(model), huggingface_weights(model))


def test_other_architectures_and_untied_embeddings_are_refused():
    with pytest.raises(EncoderError, match="holds a TransformerSpec"):
        require_plain_whisper(read_ct2(memoryview(written({}, specification="TransformerSpec"))))
    with pytest.raises(EncoderError, match="not tied"):
        require_plain_whisper(read_ct2(memoryview(written({}, {}))))
