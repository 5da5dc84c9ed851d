"""Choice of models and layers, and lookup of checkpoints."""

from pathlib import Path

import pytest

from otoscope.errors import ConfigError
from otoscope.protocols.mariotte2025.published import MODELS, choose_models, published


@pytest.mark.parametrize("name", MODELS)
def test_choose_layers_returns_the_published_pair(name: str) -> None:
    rows = published()
    rows = rows.filter(
        (rows["metric"] == "probe_accuracy") & (rows["model"] == name) & (rows["representation"] == "dense")
    )
    assert MODELS[name].choose_layers(dict(rows.select("layer", "value").iter_rows())) == MODELS[name].published


def test_choose_layers_counts_the_last_layer_once() -> None:
    assert MODELS["HuBERT"].choose_layers({0: 0.1, 1: 0.5, 2: 0.9}) == (1, 2)
    assert MODELS["AST"].choose_layers({0: 0.5, 1: 0.5, 2: 0.5}) == (0, 1)


def test_choose_models_finds_checkpoints_by_hub_or_study_name(tmp_path: Path) -> None:
    for name in ("ast-finetuned-audioset-10-10-0.4593", "microsoft/wavlm-base-plus", "hubert", "MERT"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    found = {model.name: Path(model.checkpoint).relative_to(tmp_path) for model in choose_models(folder=tmp_path)}
    assert found == {
        "AST": Path("ast-finetuned-audioset-10-10-0.4593"),
        "WavLM": Path("microsoft/wavlm-base-plus"),
        "HuBERT": Path("hubert"),
        "MERT": Path("MERT"),
    }


def test_choose_models_needs_only_the_selected_checkpoints(tmp_path: Path) -> None:
    (found,) = choose_models(folder=tmp_path, overrides=["hubert=a@b/c@2,5"], only=["hubert"])
    assert (found.name, found.checkpoint, found.layers, found.published) == ("HuBERT", "a@b/c", (2, 5), (3, 12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": ["Whisper=x"]}, "the study has no model 'Whisper'"),
        ({"overrides": ["HuBERT"]}, "--model wants NAME=CHECKPOINT"),
        ({"overrides": ["HuBERT=x@3"]}, "must name two layers"),
        ({"overrides": ["HuBERT=x@3,3"]}, "must name two layers"),
        ({"overrides": ["HuBERT=x@a,b"]}, "must name two layers"),
        ({"only": ["WavLMM"]}, "did you mean WavLM"),
    ],
)
def test_choose_models_rejects_invalid_names_and_layers(arguments, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_models(**arguments)


def test_choose_models_error_lists_searched_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no checkpoint of AST; looked for MIT/ast-finetuned"):
        choose_models(folder=tmp_path)
