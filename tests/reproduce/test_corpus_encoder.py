"""Sound as the study plays it to its models: zeros that count, train mode, wrong rates, and WavLM without its bias."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from otoscope.config.mariotte2025 import Switches
from otoscope.encoders.catalog import load_encoder
from otoscope.reproduce.mariotte2025.corpus import StudyEncoder, load_study_encoder, study_encoder, train_mode

Tiny = Callable[[str], Path]
EVAL = Switches(encoder_mode="eval")
LAYERS = [0, 1, 2, 3]


def wave(seconds: float = 0.5, rate_hz: int = 16_000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * rate_hz), generator=torch.Generator().manual_seed(seed))


def mean_of(encoder, sound, layer: int) -> np.ndarray:
    made = encoder.encode([sound], LAYERS)
    return made.layers[layer][0, made.mask[0]].mean(dim=0).numpy()


@pytest.mark.parametrize("family", ["hubert", "wavlm", "mert"])
def test_study_encoder_pads_short_crops_with_zeros(tiny: Tiny, family: str) -> None:
    inner = load_encoder(tiny(family))
    playing = study_encoder(inner, crop=True, switches=EVAL)
    sound = wave(rate_hz=inner.rate_hz)
    filled = functional.pad(sound, (0, 5 * inner.rate_hz - len(sound)))
    np.testing.assert_allclose(mean_of(playing, sound, 3), mean_of(inner, filled, 3), atol=1e-6)
    assert len(playing.frames(len(sound)).end_s) == len(inner.frames(5 * inner.rate_hz).end_s)
    masked = study_encoder(inner, crop=True, switches=Switches(encoder_mode="eval", padding="masked"))
    np.testing.assert_array_equal(mean_of(masked, sound, 3), mean_of(inner, sound, 3))
    assert np.abs(mean_of(masked, sound, 3) - mean_of(playing, sound, 3)).max() > 1e-3


def test_study_encoder_pads_whole_files_for_ast_only(tiny: Tiny) -> None:
    hubert, ast = load_encoder(tiny("hubert")), load_encoder(tiny("ast"))
    sound = wave()
    np.testing.assert_array_equal(
        mean_of(study_encoder(hubert, crop=False, switches=EVAL), sound, 2), mean_of(hubert, sound, 2)
    )
    playing = study_encoder(ast, crop=False, switches=EVAL)
    made = playing.encode([sound], [2])
    assert bool(made.mask.all())
    assert made.mask.shape[1] == ast.grid.time_steps * ast.grid.bands
    # transformers' own model, all of whose patches count
    values = ast.extractor([sound.numpy()], sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        states = ast.model(values, output_hidden_states=True).hidden_states[2][0, 2:]
    np.testing.assert_allclose(mean_of(playing, sound, 2), states.mean(dim=0).numpy(), atol=1e-5)


def test_train_mode_is_reproducible_and_restores_all_state(tiny: Tiny) -> None:
    inner = load_encoder(tiny("hubert"))
    sound, other = wave(1.0), wave(1.0, seed=1)
    clean = mean_of(inner, sound, 3)
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    noisy = study_encoder(inner, crop=False, switches=Switches(), stochastic=True)
    first = mean_of(noisy, sound, 3)
    assert np.abs(first - clean).max() > 1e-3
    np.testing.assert_array_equal(first, mean_of(noisy, sound, 3))
    together = noisy.encode([other, sound], [3])
    np.testing.assert_array_equal(together.layers[3][1, together.mask[1]].mean(dim=0).numpy(), first)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
    assert not inner.model.training
    np.testing.assert_array_equal(mean_of(inner, sound, 3), clean)


def test_study_encoder_in_eval_mode_is_deterministic(tiny: Tiny) -> None:
    inner = load_encoder(tiny("hubert"))
    quiet = study_encoder(inner, crop=False, switches=EVAL, stochastic=True)
    np.testing.assert_array_equal(mean_of(quiet, wave(), 3), mean_of(inner, wave(), 3))


def test_train_mode_returns_the_input_of_a_dropped_block(tiny: Tiny) -> None:
    inner = load_encoder(tiny("hubert"))
    config = inner.model.config
    config.layerdrop, config.apply_spec_augment = 1.0, False
    for name in ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"):
        setattr(config, name, 0.0)
    dropouts = [module for module in inner.model.modules() if isinstance(module, torch.nn.Dropout)]
    for module in dropouts:
        module.p = 0.0
    with train_mode(inner, seed=0):
        made = inner.encode([wave()], LAYERS)
    assert config.layerdrop == 1.0
    for layer in LAYERS[1:]:
        torch.testing.assert_close(made.layers[layer], made.layers[0], rtol=0, atol=0)
    shares = []
    config.layerdrop = 0.5
    for seed in range(40):
        with train_mode(inner, seed=seed):
            made = inner.encode([wave()], LAYERS)
        shares += [torch.equal(made.layers[i], made.layers[i - 1]) for i in LAYERS[1:]]
    assert 0.3 < np.mean(shares) < 0.7


def test_study_encoder_treats_another_rate_as_its_own(tiny: Tiny) -> None:
    inner = load_encoder(tiny("mert"))
    slow = study_encoder(inner, crop=True, switches=EVAL, rate_hz=16_000)
    assert (inner.rate_hz, slow.rate_hz) == (24_000, 16_000)
    sound = wave(5.0, rate_hz=16_000)
    np.testing.assert_array_equal(mean_of(slow, sound, 2), mean_of(inner, sound, 2))


def test_load_study_encoder_loads_wavlm_as_wav2vec2(tiny: Tiny) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    folder = tiny("wavlm")
    broken, whole = (
        load_study_encoder(str(folder), Switches()),
        load_study_encoder(str(folder), Switches(wavlm="wavlm")),
    )
    settings = {k: v for k, v in whole.model.config.to_dict().items() if k not in ("model_type", "architectures")}
    config = Wav2Vec2Config.from_dict(settings)
    theirs = Wav2Vec2Model(config).eval()
    found = theirs.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert found.missing_keys == []
    assert all("rel_attn_embed" in key or "gru_rel_pos" in key for key in found.unexpected_keys)
    with torch.inference_mode():
        states = theirs(wave()[None], output_hidden_states=True).hidden_states[2][0]
    assert mean_of(broken, wave(), 2) == pytest.approx(states.mean(dim=0).numpy(), abs=1e-5)
    assert np.abs(mean_of(broken, wave(), 2) - mean_of(whole, wave(), 2)).max() > 1e-3


def test_load_study_encoder_keeps_other_architectures(tiny: Tiny) -> None:
    assert type(load_study_encoder(str(tiny("hubert")), Switches()).model).__name__ == "HubertModel"


def test_study_encoder_revision_describes_the_input_pipeline(tiny: Tiny) -> None:
    mert = load_encoder(tiny("mert"))
    tells = study_encoder(mert, crop=True, switches=Switches(), stochastic=True, rate_hz=16_000).revision
    assert tells == f"{mert.revision}, padded to 5 s, 16000 Hz treated as 24000 Hz, train mode"
    ast = study_encoder(load_encoder(tiny("ast")), crop=True, switches=Switches())
    assert isinstance(ast, StudyEncoder)
    assert ast.revision.endswith("padded to 1.28 s, all patches")
    assert (
        load_encoder(tiny("ast")).revision
        == study_encoder(load_encoder(tiny("ast")), crop=False, switches=Switches(padding="masked")).revision
    )
    wavlm = study_encoder(load_study_encoder(str(tiny("wavlm")), Switches()), crop=False, switches=Switches())
    assert wavlm.revision.endswith("as wav2vec 2.0")
