"""Encoders of the study, the layers that it opened, and lookup of their checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from otoscope.encoders.model_folder import file_names, weight_names
from otoscope.errors import ConfigError, suggest


@dataclass(frozen=True)
class StudyModel:
    """One of the four encoders: its checkpoint, its published pair of layers, and the layers to open in their place."""

    name: str
    checkpoint: str
    published: tuple[int, int]
    layers: tuple[int, ...]
    with_last: bool
    """True if the authors took the best and the last layer (speech models), False if the two best."""

    def choose_layers(self, accuracy: Mapping[int, float]) -> tuple[int, ...]:
        """Return the pair that the authors' rule selects from probe accuracy by layer; ties go to the earlier layer."""
        ranked = sorted(accuracy, key=lambda layer: (-accuracy[layer], layer))
        if self.with_last:
            last = max(accuracy)
            ranked = [next((layer for layer in ranked if layer != last), last), last]
        return tuple(sorted(set(ranked[:2])))


MODELS = {
    name: StudyModel(name, checkpoint, layers, layers, with_last)
    for name, checkpoint, layers, with_last in (
        ("AST", "MIT/ast-finetuned-audioset-10-10-0.4593", (6, 12), False),
        ("WavLM", "microsoft/wavlm-base-plus", (1, 12), True),
        ("HuBERT", "facebook/hubert-base-ls960", (3, 12), True),
        ("MERT", "m-a-p/MERT-v1-95M", (4, 7), False),
    )
}
"""Encoders in the order of the study, with the layers that it opened."""

MISRATED_LAYERS = (7, 9, 10)
"""Layers of MERT whose probes the authors ran on audio at a different sample rate (PAPER 1.3, 13)."""

PAIR = 2


def choose_models(
    *, folder: Path | None = None, overrides: Iterable[str] = (), only: Sequence[str] = ()
) -> list[StudyModel]:
    """Return the models to open.

    Args:
        folder: folder of checkpoints, named as on the hub (with or without the owner) or as in the study.
        overrides: `NAME=CHECKPOINT` or `NAME=CHECKPOINT@LAYER,LAYER`; the two layers replace the published ones.
        only: names of the models to run; all without it.

    Raises:
        ConfigError: a name is not one of the study's models.

    >>> [m.layers for m in choose_models(overrides=["HuBERT=starter@1,4"], only=["HuBERT"])]
    [(1, 4)]
    """
    selected = [_study_name(name) for name in only] or list(MODELS)
    models = dict(MODELS)
    replacements = dict(_override(text) for text in overrides)
    for name in selected:
        if name in replacements:
            models[name] = replacements[name]
        elif folder is not None:
            models[name] = _find_checkpoint(models[name], folder)
    return [model for name, model in models.items() if name in selected]


def _override(text: str) -> tuple[str, StudyModel]:
    name, sign, rest = text.partition("=")
    if not sign or not rest:
        raise ConfigError(f"--model wants NAME=CHECKPOINT or NAME=CHECKPOINT@LAYER,LAYER; got {text!r}")
    model = MODELS[_study_name(name)]
    checkpoint, at, layers = rest.rpartition("@")
    if not at:
        return model.name, replace(model, checkpoint=rest)
    return model.name, replace(model, checkpoint=checkpoint, layers=_layers(text, layers))


def _study_name(name: str) -> str:
    match = {known.lower(): known for known in MODELS}.get(name.strip().lower())
    if match is None:
        raise ConfigError(f"the study has no model {name!r}; {suggest(name, MODELS)}")
    return match


def _layers(text: str, layers: str) -> tuple[int, ...]:
    try:
        pair = tuple(int(layer) for layer in layers.split(","))
    except ValueError:
        pair = ()
    if len(set(pair)) != PAIR or min(pair) < 0:
        raise ConfigError(f"{text!r} must name two layers in place of the study's, such as @3,12; got {layers!r}")
    return pair


def _find_checkpoint(model: StudyModel, folder: Path) -> StudyModel:
    names = (model.checkpoint, model.checkpoint.rpartition("/")[2], model.name, model.name.lower())
    for name in names:
        path = folder / name
        if (path / "config.json").is_file() and weight_names(file_names(path)):
            return replace(model, checkpoint=str(path))
    raise ConfigError(f"{folder} holds no checkpoint of {model.name}; looked for {', '.join(names)}")
