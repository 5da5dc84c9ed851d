"""Files of a model folder: what is read, what is missing, and the revision that covers all of it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.model_folder import (
    file_names,
    folder_revision,
    is_complete,
    read_config,
    read_preprocessor,
    weight_names,
)
from otoscope.errors import EncoderError, UnknownEncoder
from tests.support.sounds import noise
from tests.support.tiny import TINY, edit_config, edit_preprocessor, split_weights, write_tiny_checkpoint

WATCHED: dict[str, set[str]] = {}
"""Names of opened files, by folder, while a test watches it."""


def watch_opened_files(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | Path):
        path = Path(arguments[0])
        if (names := WATCHED.get(str(path.parent))) is not None:
            names.add(path.name)


sys.addaudithook(watch_opened_files)


@pytest.mark.parametrize("family", sorted(TINY))
def test_folder_revision_covers_every_file_that_transformers_opens(tmp_path: Path, tiny, family: str):
    folder = tmp_path / family
    shutil.copytree(tiny(family), folder)
    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"):
        (folder / name).write_text("{}")
    WATCHED[str(folder)] = set()
    load_encoder(folder)
    opened = WATCHED.pop(str(folder)) - {"model.safetensors"}
    assert {"config.json", "preprocessor_config.json"} <= opened
    before = folder_revision(folder)
    for name in opened:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b"\n")
        assert folder_revision(folder) != before, name
        (folder / name).write_bytes(content)
    assert folder_revision(folder) == before


@pytest.mark.parametrize("change", ["config", "preprocessor", "processor", "weights", "shard", "index"])
def test_folder_revision_changes_with_the_output(tmp_path: Path, change: str):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    if change in ("shard", "index"):
        split_weights(folder)
    before = folder_revision(folder)
    if change == "config":
        edit_config(folder, hidden_act="relu")
    elif change == "preprocessor":
        edit_preprocessor(folder, do_normalize=False)
    elif change == "processor":
        nested = {**json.loads((folder / "preprocessor_config.json").read_text()), "do_normalize": False}
        (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": nested}))
    elif change == "index":
        index = folder / "model.safetensors.index.json"
        index.write_text(index.read_text() + " ")
    else:
        file = folder / {"weights": "model.safetensors", "shard": "model-00002-of-00002.safetensors"}[change]
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    assert folder_revision(folder) != before
    assert load_encoder(folder).revision == folder_revision(folder)


def test_folder_revision_ignores_files_without_effect(tmp_path: Path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    before = folder_revision(folder)
    for name in ("generation_config.json", "tokenizer.json", "README.md", "training_args.bin", "model.onnx"):
        (folder / name).write_text("anything")
    assert folder_revision(folder) == before


def test_folder_revision_does_not_depend_on_the_place(tmp_path: Path, tiny):
    shutil.copytree(tiny("hubert"), tmp_path / "copy")
    assert folder_revision(tmp_path / "copy") == folder_revision(tiny("hubert"))
    assert len(folder_revision(tiny("hubert"))) == 16
    assert folder_revision(tmp_path) == ""


def test_sharded_weights_equal_whole_weights(tmp_path: Path, tiny):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    split_weights(folder)
    sharded, whole = (load_encoder(path).encode(noise(9000), [2]).layers[2] for path in (folder, tiny("hubert")))
    assert torch.equal(sharded, whole)


def test_read_config_refuses_shards_without_their_index(tmp_path: Path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    split_weights(folder)
    (folder / "model.safetensors.index.json").unlink()
    assert not is_complete(folder)
    expected = r"holds 2 shard\(s\) of weights without their index model\.safetensors\.index\.json; copy that file"
    with pytest.raises(EncoderError, match=expected):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "../elsewhere.safetensors", 3, None])
def test_read_config_refuses_an_index_with_missing_shards(tmp_path: Path, name: object):
    folder = write_tiny_checkpoint("hubert", tmp_path / "model")
    split_weights(folder)
    shutil.copy(folder / "model-00002-of-00002.safetensors", tmp_path / "elsewhere.safetensors")
    (folder / "model-00002-of-00002.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"] = {key: file if "00001" in file else name for key, file in listed["weight_map"].items()}
    index.write_text(json.dumps(listed))
    with pytest.raises(EncoderError, match=rf"lists shards that are not there: {name}; download the model again"):
        load_encoder(folder)


@pytest.mark.parametrize("content", ["[]", "null", '{"weight_map": []}', "{", "{}", "[" * 100_000])
def test_read_config_refuses_an_index_of_another_shape(tmp_path: Path, content: str):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    split_weights(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(
        EncoderError, match=r"model\.safetensors\.index\.json.* (not valid JSON|expected a JSON object)"
    ):
        load_encoder(folder)


def test_read_config_refuses_a_folder_without_a_model(tmp_path: Path, tiny):
    with pytest.raises(UnknownEncoder, match=r"not a model folder: it has no config\.json"):
        load_encoder(tmp_path)
    shutil.copy(tiny("hubert") / "config.json", tmp_path)
    with pytest.raises(UnknownEncoder, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("family", [3, ["hubert"], {"a": 1}, True, 1.5])
def test_read_config_refuses_a_model_type_that_is_not_text(tmp_path: Path, family: object):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    edit_config(folder, model_type=family)
    with pytest.raises(UnknownEncoder, match=r"has the model_type .*, which is not text"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "has no model_type"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('["hubert"]', "is list, expected a JSON object"),
        ("null", "is NoneType, expected a JSON object"),
    ],
)
def test_read_config_refuses_another_shape(tmp_path: Path, content: str, message: str):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(EncoderError, match=message):
        read_config(folder)


def test_read_config_refuses_an_adapter(tmp_path: Path):
    """transformers would load the base model that it names, but only where peft is installed."""
    folder = write_tiny_checkpoint("hubert", tmp_path)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(EncoderError, match=r"holds an adapter .*; merge it into the weights"):
        load_encoder(folder)


@pytest.mark.parametrize("family", ["hubert", "mert", "whisper", "ast"])
def test_read_preprocessor_refuses_a_folder_without_one(tmp_path: Path, family: str):
    folder = write_tiny_checkpoint(family, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match=r"has no preprocessor_config\.json"):
        load_encoder(folder)


def test_read_preprocessor_prefers_the_file_of_transformers(tmp_path: Path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    nested = {"feature_extractor": {**settings, "sampling_rate": 8000}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert read_preprocessor(folder)["sampling_rate"] == 8000 == load_encoder(folder).rate_hz
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Wav2Vec2Processor"}))
    assert read_preprocessor(folder)["sampling_rate"] == 16000 == load_encoder(folder).rate_hz


def test_weight_names_follows_the_order_of_transformers():
    """Whole weights before shards, safetensors before pickles, and no other file."""
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    names = ["adapter_model.safetensors", "optimizer.bin", "model.fp16.safetensors"]
    assert weight_names(names) == []
    assert weight_names([*names, *shards]) == []
    assert weight_names([*names, *shards, "pytorch_model.bin.index.json"]) == ["pytorch_model.bin.index.json", *shards]
    assert weight_names([*names, *shards, "pytorch_model.bin"]) == ["pytorch_model.bin"]
    assert weight_names([*names, "pytorch_model.bin", "model.safetensors"]) == ["model.safetensors"]


def test_file_names_leave_out_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "circle.json").symlink_to(tmp_path / "circle.json")
    (tmp_path / "gone.json").symlink_to(tmp_path / "absent.json")
    assert file_names(tmp_path) == ["config.json"]
    assert file_names(tmp_path / "absent") == []
