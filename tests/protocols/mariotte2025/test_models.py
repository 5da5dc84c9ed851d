"""Which models and layers are opened, and where their checkpoints lie."""

from pathlib import Path

import pytest

from otoscope.errors import ConfigError
from otoscope.protocols.mariotte2025.models import MODELS, choose_models
from otoscope.protocols.mariotte2025.published import published


@pytest.mark.parametrize("name", MODELS)
def test_the_rule_chooses_the_published_pair_from_the_published_probes(name: str) -> None:
    rows = published()
    rows = rows.filter(
        (rows["metric"] == "probe_accuracy") & (rows["model"] == name) & (rows["representation"] == "dense")
    )
    assert MODELS[name].choose_layers(dict(rows.select("layer", "value").iter_rows())) == MODELS[name].published


def test_the_last_layer_counts_once_even_when_it_is_best() -> None:
    assert MODELS["HuBERT"].choose_layers({0: 0.1, 1: 0.5, 2: 0.9}) == (1, 2)
    assert MODELS["AST"].choose_layers({0: 0.5, 1: 0.5, 2: 0.5}) == (0, 1)


def test_checkpoints_of_a_folder_go_by_hub_name_or_the_studys(tmp_path: Path) -> None:
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


def test_a_model_alone_needs_no_other_checkpoint(tmp_path: Path) -> None:
    (found,) = choose_models(folder=tmp_path, overrides=["hubert=a@b/c@2,5"], only=["hubert"])
    assert (found.name, found.checkpoint, found.layers, found.published) == ("HuBERT", "a@b/c", (2, 5), (3, 12))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"overrides": ["Whisper=x"]}, "the study has no model 'Whisper'"),
        ({"overrides": ["HuBERT"]}, "--model wants NAME=CHECKPOINT"),
        ({"overrides": ["HuBERT=x@3"]}, "must name two layers"),
        ({"overrides": ["HuBERT=x@3,3"]}, "must name two layers"),
        ({"overrides": ["HuBERT=x@a,b"]}, "must name two layers"),
        ({"only": ["WavLMM"]}, "did you mean WavLM"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        choose_models(**arguments)


def test_a_folder_without_a_checkpoint_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no checkpoint of AST; looked for MIT/ast-finetuned"):
        choose_models(folder=tmp_path)
