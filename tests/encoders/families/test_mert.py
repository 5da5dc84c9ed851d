import pytest
import torch

from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.families.wav2vec2 import MERT_SETTINGS
from otoscope.errors import EncoderError
from tests.support.sounds import noise
from tests.support.tiny import MERT_FLAGS, edit_config, write_tiny_checkpoint

ALL = (0, 1, 2, 3)


def test_mert_is_hubert_at_24_khz_and_75_frames_a_second(tiny):
    mert, hubert = load_encoder(tiny("mert")), load_encoder(tiny("hubert"))
    assert type(mert.model).__name__ == "HubertModel"
    assert mert.rate_hz == 24000
    assert mert.layers[0].rate_hz == 75.0
    assert mert.layers[0].offset_s == pytest.approx(200 / 24000)
    ours, theirs = (encoder.encode(noise(12000), ALL) for encoder in (mert, hubert))  # the same seed, other names
    assert all(torch.equal(ours.layers[i], theirs.layers[i]) for i in ALL)


OTHERS = {"feature_extractor_cqt": True, "deepnorm": True, "attention_relax": 32.0, "feat_proj_layer_norm": False}


@pytest.mark.parametrize("flag", MERT_SETTINGS)
def test_a_mert_that_is_not_hubert_is_refused_naming_the_flag(tmp_path, flag):
    assert set(MERT_FLAGS) == set(MERT_SETTINGS) == set(OTHERS)
    folder = write_tiny_checkpoint("mert", tmp_path)
    edit_config(folder, **{flag: OTHERS[flag]})
    with pytest.raises(EncoderError, match=f"has {flag}: {OTHERS[flag]}; .* only with {flag}: {MERT_SETTINGS[flag]}"):
        load_encoder(folder)


def test_remote_code_beside_the_weights_is_never_run(tmp_path):
    folder = write_tiny_checkpoint("mert", tmp_path)
    for module in ("configuration_MERT.py", "modeling_MERT.py"):
        (folder / module).write_text("raise SystemExit('remote code ran')")
    assert load_encoder(folder).encode(noise(9000), [0]).mask.any()
