"""Files of a trained SAE, `sae.safetensors` and `card.json`, and the values that a card may hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from otoscope.artifacts import atomic, digest, environment, fingerprint, json_bytes, read_json_as, read_safetensors
from otoscope.errors import ArtifactError, ConfigError, DamagedArtifact, IncompleteArtifact, StaleArtifact

FORMAT = 1
WEIGHTS, CARD = "sae.safetensors", "card.json"
WRITTEN_KEYS = {"format", "model", "model_fingerprint", "sha256", "versions"}
"""Keys of a card that `write_checkpoint` adds."""

CARD_TYPES = "a card holds text, numbers, true, false, None, and lists and mappings of these"


class Checkpoint(NamedTuple):
    """Tensors of a stored model and its card."""

    tensors: dict[str, Tensor]
    card: dict[str, Any]


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    model: Mapping[str, Any],
    card: Mapping[str, Any],
    *,
    overwrite: bool = True,
) -> None:
    """Write weights and card; the card last, so that a folder with a card is complete.

    `model` are the constructor's settings. Format, versions, their fingerprint and the weights' SHA-256 are added.
    Raises `ConfigError` naming the key of a value that a card cannot hold, `StorageFull` and `ArtifactError` for a
    folder that cannot be written, and unless `overwrite`, `ArtifactError` for a folder with a file of these names. An
    existing checkpoint in the folder stays until both files are on disk.
    """
    plain = as_card(card)
    if not overwrite and (taken := [name for name in (CARD, WEIGHTS) if (folder / name).exists()]):
        raise ArtifactError(
            f"{folder} holds {' and '.join(taken)} already; choose another folder, or replace them with overwrite=True"
        )
    arrays = {name: np.asarray(to_array(value), order="C") for name, value in tensors.items()}
    # `atomic` publishes in reverse order: the weights first, the card last
    with atomic(folder / CARD) as card_part, atomic(folder / WEIGHTS) as weights_part:
        save_file(arrays, weights_part, {})
        settings = {"model": dict(model), "model_fingerprint": fingerprint(model)}
        added = {"format": FORMAT, **settings, "sha256": digest(weights_part), "versions": environment()}
        card_part.write_bytes(json_bytes({**plain, **added}))
        (folder / CARD).unlink(missing_ok=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read weights and card.

    Raises `IncompleteArtifact` for a missing folder or file, `DamagedArtifact` if weights and card do not match,
    `StaleArtifact` for another format.
    """
    if not (folder / CARD).is_file():
        state = f"has no {CARD}" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise IncompleteArtifact(
            f"the folder {folder} {state}; give a folder that `save_pretrained` or `otoscope train` wrote, such as "
            "runs/demo/saes/NAME"
        )
    card = read_json_as(folder / CARD, dict[str, Any])
    if not {"format", "model", "sha256"} <= card.keys():
        raise DamagedArtifact(f"{folder / CARD} is not the card of an SAE; train it again")
    if card["format"] != FORMAT:
        raise StaleArtifact(f"{folder} has format {card['format']}, this release reads {FORMAT}; train it again")
    tensors = _read_float32(folder / WEIGHTS)
    if digest(folder / WEIGHTS) != card["sha256"]:
        raise DamagedArtifact(f"{folder / WEIGHTS} does not match the checksum in its card; train it again")
    return Checkpoint(tensors, card)


def require_settings(card: Mapping[str, Any], path: Path) -> None:
    """Raise `DamagedArtifact` if the settings of a model are not those that were written, such as another k.

    Cards without a fingerprint, as other tools write them, are accepted.
    """
    if card.get("model_fingerprint", known := fingerprint(card["model"])) != known:
        raise DamagedArtifact(
            f"{path}: the settings under `model` are not those that were saved (their fingerprint differs); restore the"
            " card, or save the SAE again"
        )


def _read_float32(path: Path) -> dict[str, Tensor]:
    """Read tensors; floats of fewer bits, which other tools may have written, become float32."""
    tensors: dict[str, Tensor] = read_safetensors(path, "pt")
    return {
        name: value.float() if value.is_floating_point() and value.itemsize < 4 else value
        for name, value in tensors.items()
    }


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model.

    Raises `StaleArtifact` for missing or unexpected keys (an intact file of another version), `DamagedArtifact` for a
    tensor of another shape.
    """
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise StaleArtifact(
            f"{path} was written by another version of otoscope: missing keys {missing}, unexpected keys {extra}; "
            f"delete {path.parent} and train again"
        )
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            raise DamagedArtifact(f"{path}: {name} has shape {list(tensors[name].shape)}, expected {list(value.shape)}")
    model.load_state_dict(dict(tensors))


def to_array(value: Tensor) -> NDArray[Any]:
    """Return a tensor's values as an array."""
    return value.detach().cpu().numpy()


def as_card(card: object) -> dict[str, Any]:
    """Return a mapping with JSON values only; raise `ConfigError` naming the first key that JSON cannot hold.

    >>> as_card({"seed": np.int64(3), "layers": (0, 1)})
    {'seed': 3, 'layers': [0, 1]}
    """
    if not isinstance(card, Mapping):
        raise ConfigError(f"card: got {card!r}; give a mapping, such as {{'layer': 3}}")
    return _plain(card, "card")


def _plain(value: object, key: str) -> Any:
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _text(value, key)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(name, key): _plain(item, f"{key}[{name!r}]") for name, item in value.items()}
    raise ConfigError(f"{key}: got {_short(value)}, of type {type(value).__name__}; {CARD_TYPES}{_hint(value)}")


def _key(name: object, key: str) -> Any:
    plain = name.item() if isinstance(name, np.integer) else name
    if isinstance(plain, str):
        return _text(plain, key)
    if plain is None or isinstance(plain, bool | int | float):  # JSON converts them to text
        return plain
    raise ConfigError(f"{key}: got the key {_short(name)}, of type {type(name).__name__}; the keys of a card are text")


def _text(value: str, key: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{key}: got {value!r}, which UTF-8 cannot encode; {CARD_TYPES}") from error
    return value


def _short(value: object) -> str:
    """Return a value for a message, on one short line."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def _hint(value: object) -> str:
    if hasattr(value, "tolist"):
        return "; give its `.tolist()`"
    if hasattr(value, "__fspath__"):
        return "; give `str` of it"
    if hasattr(value, "model_dump"):
        return '; give its `.model_dump(mode="json")`'
    return ""
