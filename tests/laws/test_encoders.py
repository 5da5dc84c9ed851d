"""Properties of every encoder family."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.activations.format import store_spec
from otoscope.encoders.base import Encoder
from otoscope.encoders.catalog import FAMILIES, MODELS, load_encoder
from otoscope.encoders.hooks import replace_states
from otoscope.errors import EncoderError, UnknownLayer
from tests.support.sounds import assert_near, noise
from tests.support.tiny import BLOCKS, TINY, WIDTH, write_tiny_checkpoint

LENGTHS = (16000, 12345, 2801, 16000, 13000)
ALL = tuple(range(BLOCKS + 1))


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Encoder]:
    root, folders, loaded = tmp_path_factory.mktemp("laws"), dict[str, Path](), dict[tuple[str, bool], Encoder]()

    def encoder(family: str, *, together: bool = False) -> Encoder:
        if family not in folders:
            folders[family] = write_tiny_checkpoint(family, root / family)
        if (family, together) not in loaded:
            loaded[family, together] = load_encoder(folders[family], together=together)
        return loaded[family, together]

    return encoder


@pytest.fixture(scope="session", params=sorted(TINY))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def test_families_have_tiny_checkpoints_and_models_have_families():
    covered = {name.removesuffix("-large") for name in TINY}
    renamed = {"mert": "mert_model", "ast": "audio-spectrogram-transformer"}
    assert {renamed.get(name, name) for name in covered} == set(FAMILIES)
    assert {model.family for model in MODELS.values()} == set(FAMILIES)


def test_encoder_shapes_masks_and_frames_agree(load, family):
    encoder = load(family)
    encoded = encoder.encode(noise(*LENGTHS), ALL)
    assert [layer.index for layer in encoder.layers] == list(ALL)
    # CLAP's layers are those of its last stage: the stages before it attend
    assert [layer.attends for layer in encoder.layers] == [family == "clap", True, True, True]
    counts = [len(encoder.frames(samples).start_s) for samples in LENGTHS]
    assert encoded.mask.sum(1).tolist() == counts
    assert encoded.mask.shape[1] == max(counts)
    for layer in ALL:
        state = encoded.layers[layer]
        assert state.shape == (len(LENGTHS), max(counts), encoder.layers[layer].width)
        assert encoder.layers[layer].width == WIDTH
        assert state.dtype == torch.float32
        assert state.isfinite().all()
        assert (state[encoded.mask].std(0) > 0).all()
        assert (state[~encoded.mask] == 0).all()
    assert sorted(encoded.tokens) == (list(ALL) if family == "ast" else [])


def test_encoder_mask_is_valid_frames_then_padding(load, family):
    mask = load(family).encode(noise(*LENGTHS), [0]).mask
    assert (mask[:, :-1] | ~mask[:, 1:]).all()


def test_encoder_is_deterministic(load, family):
    encoder, waves = load(family), noise(*LENGTHS)
    first, second = encoder.encode(waves, ALL), encoder.encode(waves, ALL)
    assert all(torch.equal(first.layers[i], second.layers[i]) for i in ALL)


def test_encoder_output_does_not_depend_on_other_clips(load, family):
    encoder, waves = load(family), noise(*LENGTHS)
    batch = encoder.encode(waves, ALL)
    for clip, wave in enumerate(waves):
        alone = encoder.encode([wave], ALL)
        for layer in ALL:
            assert torch.equal(batch.layers[layer][clip][batch.mask[clip]], alone.layers[layer][0])


def test_encoder_batching_changes_no_valid_frame(load, family):
    waves = noise(*LENGTHS)
    apart = load(family).encode(waves, ALL)
    shared = load(family, together=True).encode(waves, ALL)
    assert torch.equal(apart.mask, shared.mask)
    for layer in ALL:
        assert_near(shared.layers[layer], apart.layers[layer])


@pytest.mark.parametrize("shared_s", [0.5, 1.0, 2.5])
def test_encoder_passes_hold_at_most_the_shared_seconds(load, family, shared_s):
    waves = noise(*LENGTHS, 16000, 16000)
    apart = load(family)
    encoder = replace(apart, runtime=replace(apart.runtime, shared_s=shared_s))
    passes = encoder._plan_passes([len(wave) for wave in waves])
    assert sorted(i for members in passes for i in members) == list(range(len(waves)))
    for members in passes:
        assert len(members) == 1 or sum(len(waves[i]) for i in members) <= shared_s * encoder.rate_hz
    shared = encoder.encode(waves, [BLOCKS])
    assert_near(shared.layers[BLOCKS], apart.encode(waves, [BLOCKS]).layers[BLOCKS])


def test_encoder_states_its_precision_and_context(load, family):
    encoder = load(family)
    spec = store_spec(encoder, layers=[0])["encoder"]
    assert (spec["precision"], spec["context"]) == (encoder.precision, encoder.context) == ("exact", "exact")


def test_encoder_keeps_the_order_of_clips(load, family):
    encoder, waves = load(family, together=True), noise(*LENGTHS)
    forth, back = encoder.encode(waves, [1]), encoder.encode(waves[::-1], [1])
    assert_near(forth.layers[1], back.layers[1].flip(0))


def test_encoder_early_exit_gives_the_same_layers(load, family):
    encoder, waves = load(family), noise(*LENGTHS)
    everything = encoder.encode(waves, ALL)
    for layer in ALL:
        only = encoder.encode(waves, [layer])
        assert list(only.layers) == [layer]
        assert torch.equal(only.layers[layer], everything.layers[layer])


def test_encoder_model_is_frozen_in_eval_mode_and_float32(load, family):
    model = load(family).model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_encoder_uses_no_random_numbers_and_keeps_its_input(load, family):
    encoder, (wave,) = load(family), noise(9000)
    before, state = wave.clone(), torch.random.get_rng_state()
    encoder.encode([wave], ALL)
    assert torch.equal(wave, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_encoder_output_can_be_trained_on(load, family):
    state = load(family).encode(noise(9000), [1]).layers[1]
    weight = torch.ones(WIDTH, requires_grad=True)
    (state @ weight).sum().backward()
    assert weight.grad is not None


def test_encoder_restores_the_number_of_threads(load, family):
    before = torch.get_num_threads()
    load_encoder(load(family).name, threads=before + 1).encode(noise(9000), [0])
    assert torch.get_num_threads() == before


def test_encoder_passes_side_by_side_give_the_bytes_of_one_after_the_other(load, family):
    alone, waves = load(family), noise(*LENGTHS)
    several = replace(alone, runtime=replace(alone.runtime, threads=3)).side_by_side()
    assert (several.runtime.passes, several.runtime.threads) == (3, 1)
    before = torch.get_num_threads()
    expected = replace(alone, runtime=replace(alone.runtime, threads=1)).encode(waves, ALL)
    for _ in range(3):
        found = several.encode(waves, ALL)
        assert torch.equal(found.mask, expected.mask)
        assert all(torch.equal(found.layers[i], expected.layers[i]) for i in ALL)
        assert all(torch.equal(found.tokens[i], expected.tokens[i]) for i in expected.tokens)
    assert torch.equal(several.encode(waves[1:2], [1]).layers[1], alone.encode(waves[1:2], [1]).layers[1])
    assert torch.get_num_threads() == before


def test_encoder_passes_side_by_side_share_the_weights(load, family):
    several = replace(load(family), runtime=replace(load(family).runtime, threads=2)).side_by_side()
    several.encode(noise(9000), [0])
    weights = [p.data_ptr() for p in several.model.parameters()]
    assert len(several._copies) == 2
    for copy in several._copies:
        assert [p.data_ptr() for p in copy.model.parameters()] == weights


def test_encoder_passes_side_by_side_replace_states(load, family):
    encoder = load(family)
    several = replace(encoder, runtime=replace(encoder.runtime, threads=2)).side_by_side()
    waves = noise(*LENGTHS)
    with replace_states({1: torch.zeros_like}):
        encoded, expected = several.encode(waves, [1, 2]), encoder.encode(waves, [1, 2])
    assert not encoded.layers[1].any()
    assert torch.equal(encoded.layers[2], expected.layers[2])
    assert several.encode(waves, [1]).layers[1].any()


def test_encoder_passes_side_by_side_raise_the_error_of_a_pass(load, family, monkeypatch):
    encoder = load(family)
    several = replace(encoder, runtime=replace(encoder.runtime, threads=2)).side_by_side()

    def fail(self, waves, layers):
        raise ValueError("no such setting")

    monkeypatch.setattr(type(encoder), "forward", fail)
    with pytest.raises(EncoderError, match="no such setting"):
        several.encode(noise(*LENGTHS), ALL)


@settings(max_examples=40, deadline=None)
@given(extra=st.integers(0, 18000))
def test_encoder_frames_are_within_the_clip_and_monotonic(load, family, extra):
    encoder = load(family)
    samples = encoder.min_samples + extra
    frames, longer = encoder.frames(samples), encoder.frames(samples + 1)
    centres_s = (frames.start_s + frames.end_s) / 2
    assert len(centres_s) >= 1
    assert (np.diff(frames.start_s) >= 0).all()
    assert (frames.start_s >= 0).all()
    assert (centres_s <= samples / encoder.rate_hz).all()
    assert len(longer.start_s) >= len(frames.start_s)


def test_encoder_shortest_clip_passes_and_shorter_is_refused(load, family):
    encoder = load(family)
    assert encoder.encode(noise(encoder.min_samples), [BLOCKS]).mask.any()
    shortest = f"shortest clip that .* can encode is {encoder.min_samples / encoder.rate_hz:.4f} s"
    with pytest.raises(EncoderError, match=shortest):
        encoder.encode(noise(9000, encoder.min_samples - 1), [0])


def test_encoder_clip_longer_than_window_is_refused(load, family):
    encoder = load(family)
    if encoder.window_s is None:
        assert encoder.encode(noise(10 * encoder.rate_hz), [0]).mask.sum() > 9 * encoder.layers[0].rate_hz
        return
    whole = round(encoder.window_s * encoder.rate_hz)
    assert encoder.encode(noise(whole), [0]).mask.all()
    with pytest.raises(EncoderError, match="cut it into windows"):
        encoder.encode(noise(whole + 1), [0])


def test_encoder_frames_of_silence_are_finite(load, family):
    state = load(family).encode([torch.zeros(9000)], ALL)
    assert all(state.layers[i].isfinite().all() for i in ALL)


@pytest.mark.parametrize("layer", [-1, BLOCKS + 1])
def test_encoder_error_names_unknown_layer(load, family, layer):
    with pytest.raises(UnknownLayer, match=f"has no layer {layer}; it has layers 0 to {BLOCKS}"):
        load(family).encode(noise(9000), [0, layer])


def test_encoder_invalid_audio_is_refused(load, family):
    encoder = load(family)
    with pytest.raises(EncoderError, match="no clips"):
        encoder.encode([], [0])
    with pytest.raises(EncoderError, match=r"clip 1 has shape \(2, 9000\)"):
        encoder.encode([*noise(9000), torch.zeros(2, 9000)], [0])
    with pytest.raises(EncoderError, match="clip 0 holds NaN"):
        encoder.encode([torch.full((9000,), torch.nan)], [0])


def test_encoder_accepts_arrays_like_tensors(load, family):
    """`load_audio` returns arrays; other readers return float64 or views with negative strides."""
    encoder, (wave,) = load(family), noise(9000)
    expected = encoder.encode([wave], [1]).layers[1]
    array = wave.numpy()
    frozen = array.copy()
    frozen.setflags(write=False)
    for given_as in (array, frozen, array.astype(np.float64), array[::-1].copy()[::-1]):
        assert torch.equal(encoder.encode([given_as], [1]).layers[1], expected)


@pytest.mark.parametrize(
    ("waves", "told"),
    [
        (
            torch.zeros(9000),
            r"got one tensor of shape \(9000,\); give a list of clips, one channel each: \[wave\]",
        ),
        (np.zeros(9000), r"got one array of shape \(9000,\); give a list of clips"),
        (
            torch.zeros(2, 9000),
            r"got one tensor of shape \(2, 9000\); give a list of clips.* list\(waves\) if its rows",
        ),
        ([np.zeros((2, 9000))], r"clip 0 has shape \(2, 9000\)"),
        ([[0.0] * 9000], r"clip 0 is a list; give a tensor or an array"),
        ([torch.zeros(9000, dtype=torch.int16)], r"clip 0 holds int16 samples; give floats from -1 to 1"),
        ([np.zeros(9000, dtype=np.int16)], r"clip 0 holds int16 samples; give floats from -1 to 1"),
        ([np.full(9000, np.inf)], "clip 0 holds NaN or infinite"),
        ([np.full(9000, 16384.0)], "clip 0 has a peak of 16384; full scale is 1"),
    ],
)
def test_encoder_wrong_arguments_are_refused_with_our_error(load, family, waves, told):
    with pytest.raises(EncoderError, match=told):
        load(family).encode(waves, [0])


def test_encoder_layer_that_is_no_list_is_refused(load, family):
    with pytest.raises(UnknownLayer, match=r"layers is 1; give a list, such as \[1\]"):
        load(family).encode(noise(9000), 1)


def test_encoder_repr_shows_rate_layers_width_and_precision(load, family):
    encoder = load(family)
    expected = (
        f"Encoder({encoder.name!r}, rate {encoder.rate_hz:,} Hz, layers 0-{BLOCKS}, width {WIDTH}, float32 exact)"
    )
    assert repr(encoder) == expected
