import errno
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from otoscope import SparseAutoencoder, TopK, load_sae, save_sae
from otoscope.artifacts import digest, read_tensors, write_tensors
from otoscope.errors import ArtifactError, ConfigError, DamagedArtifact, IncompleteArtifact, StaleArtifact, StorageFull
from otoscope.sae import checkpoint
from otoscope.sae.checkpoint import CARD, WEIGHTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_sae(tmp_path, SparseAutoencoder(6, 16, TopK(3)), {"seed": 0})
    return tmp_path


def rewrite_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **changes}))


def rewrite_weights(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    write_tensors(folder / WEIGHTS, tensors)
    rewrite_card(folder, sha256=digest(folder / WEIGHTS))


def test_load_sae_restores_all_settings(tmp_path: Path):
    sae = SparseAutoencoder(6, 16, TopK(3), encoder_bias=False, decoder_bias=False, unit_norm=False, init="linear")
    sae.set_scaling(torch.arange(6.0), torch.arange(1.0, 7.0))
    save_sae(tmp_path, sae, {})
    loaded, card = load_sae(tmp_path)
    assert loaded.settings() == sae.settings()
    assert card["versions"]["torch"] == version("torch")
    assert not loaded.training
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(x).reconstruction, sae(x).reconstruction)


def test_save_sae_is_deterministic(tmp_path: Path):
    for name in "ab":
        save_sae(tmp_path / name, SparseAutoencoder(6, 16, TopK(3), seed=4), {"seed": 4})
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("file", [WEIGHTS, CARD])
def test_load_sae_missing_file_error(folder: Path, file: str):
    (folder / file).unlink()
    with pytest.raises(IncompleteArtifact, match=file):
        load_sae(folder)


def test_load_sae_checksum_error(folder: Path):
    tensors = read_tensors(folder / WEIGHTS)
    tensors["encoder"][0, 0] += 1
    write_tensors(folder / WEIGHTS, tensors)
    with pytest.raises(DamagedArtifact, match=r"does not match the checksum in its card"):
        load_sae(folder)


def test_load_sae_other_settings_than_were_saved_error(folder: Path):
    model = json.loads((folder / CARD).read_text())["model"]
    model["sparsifier"]["k"] = 5
    rewrite_card(folder, model=model)
    with pytest.raises(DamagedArtifact, match="the settings under `model` are not those that were saved"):
        load_sae(folder)


def test_load_sae_truncated_file_error(folder: Path):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-7])
    with pytest.raises(DamagedArtifact, match=r"not a complete safetensors file"):
        load_sae(folder)


@pytest.mark.parametrize("name", ["encoder", "decoder", "encoder_bias", "decoder_bias", "centre", "scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_load_sae_non_finite_weights_error(folder: Path, name: str, value: float):
    tensors = read_tensors(folder / WEIGHTS)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = value
    write_tensors(folder / WEIGHTS, tensors)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "sha256": digest(folder / WEIGHTS)}))
    with pytest.raises(DamagedArtifact, match=f"holds NaN or infinite values in {name}"):
        load_sae(folder)


@pytest.mark.parametrize("changes", [{"latents": 10**12}, {"width": 10**9}, {"archetypes": 10**10}, {"latents": "16"}])
def test_load_sae_compares_the_card_with_the_weights_before_allocating(folder: Path, changes: dict[str, object]):
    card = json.loads((folder / CARD).read_text())
    rewrite_card(folder, model={**card["model"], **changes})
    with pytest.raises(DamagedArtifact, match=rf"(encoder|archetypes.points) has .*, {CARD} says"):
        load_sae(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_load_sae_reads_floats_of_fewer_bits_as_float32(folder: Path, dtype: torch.dtype):
    tensors = {name: value.to(dtype) for name, value in load_sae(folder).sae.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    rewrite_card(folder, sha256=digest(folder / WEIGHTS))
    sae = load_sae(folder).sae
    for name, value in sae.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tensors[name].float()), name


def test_load_sae_other_keys_are_stale(folder: Path):
    tensors = read_tensors(folder / WEIGHTS)
    tensors["threshold"] = tensors.pop("encoder_bias")
    rewrite_weights(folder, tensors)
    keys = r"missing keys \['encoder_bias'\], unexpected keys \['threshold'\]"
    with pytest.raises(StaleArtifact, match=rf"another version of otoscope: {keys}; delete {folder} and train again"):
        load_sae(folder)


def test_load_sae_tensor_shape_error(folder: Path):
    tensors = read_tensors(folder / WEIGHTS)
    tensors["decoder"] = tensors["decoder"].T
    rewrite_weights(folder, tensors)
    with pytest.raises(DamagedArtifact, match=r"decoder has shape \[6, 16\], expected \[16, 6\]"):
        load_sae(folder)


def test_load_sae_other_format_is_stale(folder: Path):
    rewrite_card(folder, format=99)
    with pytest.raises(StaleArtifact, match=r"has format 99, this release reads 1"):
        load_sae(folder)


@pytest.mark.parametrize("model", [{}, {"width": 6}, {"latents": 4, "sparsifier": {}, "scale_per_dimension": 0}])
def test_load_sae_invalid_model_card_error(folder: Path, model: dict[str, object]):
    rewrite_card(folder, model=model)
    with pytest.raises(DamagedArtifact, match=r"does not describe an SAE|cannot be built"):
        load_sae(folder)


def test_load_sae_foreign_card_error(folder: Path):
    (folder / CARD).write_text("[1, 2]")
    with pytest.raises(DamagedArtifact, match=r"card\.json is damaged"):
        load_sae(folder)


def test_load_sae_missing_folder_error(tmp_path: Path):
    with pytest.raises(IncompleteArtifact, match=r"nope does not exist; give a folder that `save_pretrained`"):
        load_sae(tmp_path / "nope")
    with pytest.raises(IncompleteArtifact, match=rf"^the folder {tmp_path} has no card\.json; give a folder"):
        load_sae(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(IncompleteArtifact, match=r"file is a file; give a folder"):
        load_sae(tmp_path / "file")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"home": Path("a")}, r"^card\['home'\]: got PosixPath\('a'\), of type PosixPath; a card holds .*give `str`"),
        ({"runs": [{"at": object}]}, r"^card\['runs'\]\[0\]\['at'\]: got <class 'object'>, of type type; a card holds"),
        ({"mean": np.zeros(2)}, r"^card\['mean'\]: got array\(.*, of type ndarray; .*give its `\.tolist\(\)`"),
        ({"long": {*range(99)}}, r"^card\['long'\]: got \{0, 1, .{60,80}\.\.\., of type set"),
        ({"name": "\udcff"}, r"^card\['name'\]: got '\\udcff', which UTF-8 cannot encode"),
        ({(1, 2): 3}, r"^card: got the key \(1, 2\), of type tuple; the keys of a card are text"),
        ([("seed", 1)], r"^card: got \[\('seed', 1\)\]; give a mapping"),
    ],
)
def test_save_sae_card_error_names_the_key_and_writes_nothing(folder: Path, card: object, message: str):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=message):
        save_sae(folder, SparseAutoencoder(6, 16, TopK(3), seed=1), card, overwrite=True)  # pyright: ignore[reportArgumentType]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_as_card_converts_numpy_numbers(tmp_path: Path):
    given = {"seed": np.int64(3), "share": np.float32(0.5), "whole": np.bool_(True), "layers": (np.int8(0), {"k": 2})}
    save_sae(tmp_path, SparseAutoencoder(6, 16, TopK(3)), {**given, "counts": {np.int64(7): 1}})
    card = load_sae(tmp_path).card
    assert {key: card[key] for key in given} == {"seed": 3, "share": 0.5, "whole": True, "layers": [0, {"k": 2}]}
    assert card["counts"] == {"7": 1}


@pytest.mark.parametrize("file", [WEIGHTS, CARD])
def test_save_sae_full_disk_keeps_the_old_files(folder: Path, file: str, monkeypatch: pytest.MonkeyPatch):
    """The error may occur while either of the two files is written."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, {WEIGHTS: "save_file", CARD: "json_bytes"}[file], full)
    with pytest.raises(StorageFull, match="no room left to write"):
        save_sae(folder, SparseAutoencoder(6, 16, TopK(3), seed=1), {"seed": 1}, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    save_sae(folder, SparseAutoencoder(6, 16, TopK(3), seed=1), {"seed": 1}, overwrite=True)
    assert load_sae(folder).card["seed"] == 1


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_save_sae_overwrites_only_on_request(tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine")
    sae = SparseAutoencoder(6, 16, TopK(3), seed=1)
    with pytest.raises(ArtifactError, match=rf"holds {name} already; choose another folder, or .*overwrite=True"):
        save_sae(tmp_path, sae, {})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    sae.save_pretrained(tmp_path, overwrite=True)
    assert load_sae(tmp_path).sae.latents == 16
