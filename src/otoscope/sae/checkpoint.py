"""A trained dictionary on disk: `sae.safetensors` and `card.json`.

What a dictionary's card may hold: JSON, with the numbers of NumPy as Python's own.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from otoscope.artifacts import atomic, digest, environment, read_json, read_tensors, write_json
from otoscope.errors import ConfigError, DamagedArtifact, IncompleteArtifact, StaleArtifact
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.catalog import sparsifier_from_card

ALLOWED = "a card holds text, numbers, true, false, None, and lists and mappings of these"


def as_card(given: object) -> dict[str, Any]:
    """Return what JSON will hold of a mapping; raise `ConfigError` naming the first key that it cannot.

    >>> as_card({"seed": np.int64(3), "layers": (0, 1)})
    {'seed': 3, 'layers': [0, 1]}
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"card: got {given!r}; give a mapping, such as {{'layer': 3}}")
    return _plain(given, "card")


def _plain(value: object, key: str) -> Any:
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _text(value, key)
    if isinstance(value, list | tuple):
        return [_plain(one, f"{key}[{place}]") for place, one in enumerate(value)]
    if isinstance(value, Mapping):
        return {_name(name, key): _plain(one, f"{key}[{name!r}]") for name, one in value.items()}
    raise ConfigError(f"{key}: got {_shown(value)}, of type {type(value).__name__}; {ALLOWED}{_hint(value)}")


def _name(name: object, key: str) -> Any:
    plain = name.item() if isinstance(name, np.integer) else name
    if isinstance(plain, str):
        return _text(plain, key)
    if plain is None or isinstance(plain, bool | int | float):  # JSON makes text of them
        return plain
    raise ConfigError(f"{key}: got the key {_shown(name)}, of type {type(name).__name__}; the keys of a card are text")


def _text(value: str, key: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{key}: got {value!r}, which UTF-8 cannot spell; {ALLOWED}") from error
    return value


def _shown(value: object) -> str:
    """Return a value for a message, in one short line."""
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


FORMAT = 1
WEIGHTS, CARD = "sae.safetensors", "card.json"
DICTIONARIES = f"*/{WEIGHTS}", f"saes/*/{WEIGHTS}"
"""Where dictionaries lie in a folder of them, and in a run's."""


class Loaded(NamedTuple):
    """A model and its card."""

    sae: SparseAutoencoder
    card: dict[str, Any]


def save_sae(folder: str | Path, sae: SparseAutoencoder, card: Mapping[str, Any]) -> None:
    """Write a model and its card; the card comes last, so a folder with a card is whole.

    `card` holds what the caller knows (preset, seed, layer, encoder, fingerprints, summary), in values that JSON has
    and NumPy's numbers; shape, sparsifier, format, versions and the weights' SHA-256 are added. Raises `ConfigError`
    naming the key of a value that a card cannot hold, `StorageFull` and `ArtifactError` for a place that cannot be
    written. A dictionary that lay there stays as it was until both files are on disk.
    """
    folder = Path(folder)
    told = as_card(card)
    tensors = {name: np.asarray(to_array(value), order="C") for name, value in sae.state_dict().items()}
    # names are given back to front: the weights first, the card last
    with atomic(folder / CARD) as card_part, atomic(folder / WEIGHTS) as weights_part:
        save_file(tensors, weights_part, {})
        added = {"format": FORMAT, "model": sae.settings(), "sha256": digest(weights_part), "versions": environment()}
        write_json(card_part, {**told, **added})
        (folder / CARD).unlink(missing_ok=True)


def load_sae(folder: str | Path) -> Loaded:
    """Read a model, frozen and in eval mode, and its card.

    Raises `IncompleteArtifact` when the folder (naming the nearest dictionary beside it) or a file is missing,
    `DamagedArtifact` when weights and card do not belong together, `StaleArtifact` for another format, and for whole
    weights with other keys, which another version of otoscope wrote.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise IncompleteArtifact(_no_dictionary(folder))
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or not {"format", "model", "sha256"} <= card.keys():
        raise DamagedArtifact(f"{folder / CARD} is not the card of a dictionary; train it again")
    if card["format"] != FORMAT:
        raise StaleArtifact(f"{folder} has format {card['format']}, this release reads {FORMAT}; train it again")
    tensors = read_tensors(folder / WEIGHTS)
    if digest(folder / WEIGHTS) != card["sha256"]:
        raise DamagedArtifact(f"{folder / WEIGHTS} is not the file that its card was written for; train it again")
    sae = empty_sae(card["model"], folder)
    load_strictly(sae, {name: torch.from_numpy(value) for name, value in tensors.items()}, folder / WEIGHTS)
    return Loaded(sae.eval().requires_grad_(False), card)


def _no_dictionary(folder: Path) -> str:
    """Say what is there instead: no folder, or one without a card; and the dictionary meant, in it or beside it."""
    if folder.is_dir():
        what, where, home = f"{folder} holds no {CARD}, so no whole dictionary", "in", folder
    else:
        state = "is a file" if folder.exists() else "does not exist"
        what, where, home = f"the folder {folder} {state}", "beside", folder.parent
    found = [path.parent for pattern in DICTIONARIES for path in sorted(home.glob(pattern))]
    lying = [str(one) for one in found if (one / CARD).is_file()]
    if not lying:
        return f"{what}, and no dictionary lies {where} it; give a folder that `save_sae` or `otoscope train` wrote"
    near = get_close_matches(str(folder), lying, n=1, cutoff=0.0)[0]
    others = f" ({len(lying) - 1} more lie {where} it)" if len(lying) > 1 else ""
    return f"{what}; did you mean {near}?{others}"


def empty_sae(settings: Mapping[str, Any], folder: Path) -> SparseAutoencoder:
    """Make a model of the shape that `SparseAutoencoder.settings` told."""
    known = dict(settings)
    try:
        per_dimension = known.pop("scale_per_dimension")
        sparsifier = sparsifier_from_card(known.pop("sparsifier"), latents=known["latents"])
        sae = SparseAutoencoder(sparsifier=sparsifier, **known)
    except (KeyError, TypeError) as error:
        raise DamagedArtifact(f"{folder / CARD} does not describe a dictionary ({error}); train it again") from error
    if per_dimension:
        sae.scale = torch.ones(sae.width)
    return sae


def load_strictly(sae: SparseAutoencoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model.

    Raises `StaleArtifact` for missing or unexpected keys: another version wrote a file that is whole. Raises
    `DamagedArtifact` for a misshapen tensor.
    """
    wanted = sae.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise StaleArtifact(
            f"{path} was written by another version of otoscope: missing keys {missing}, unexpected keys {extra}; "
            f"delete {path.parent} and train again"
        )
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            raise DamagedArtifact(f"{path}: {name} has shape {list(tensors[name].shape)}, expected {list(value.shape)}")
    sae.load_state_dict(dict(tensors))


def to_array(value: Tensor) -> NDArray[Any]:
    """Return a tensor's values as an array."""
    return value.detach().cpu().numpy()
