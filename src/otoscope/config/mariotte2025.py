"""Switches of the authors' defects: the first choice reproduces the defect, the others correct it."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from otoscope.config.base import Latents, Repeats, Section, Seed
from otoscope.config.yaml_text import parse_yaml
from otoscope.corpus.catalog import validate_settings
from otoscope.errors import ConfigError, quote, suggest

ALPHA = 0.1
"""LASSO penalty of the study, the same for every representation, never tuned."""

PAPER_SPARSITIES = (0.75, 0.80, 0.85, 0.90, 0.95, 0.99)
"""The six sparsities of the study (arXiv 2509.24793)."""


class MetricSwitches(Section):
    """Switches of the metrics; the defaults reproduce the authors' code."""

    lasso_r2: Literal["in_sample", "unseen_singers"] = Field(
        default="in_sample", description="R2 on the clips that were fitted, or on each test singer with it left out"
    )
    completeness_of_unpredicted: Literal["1", "nan"] = Field(
        default="1", description="completeness of a factor that no dimension predicts: perfect, or undefined"
    )
    completeness_normaliser: Literal["all", "live", "width"] = Field(
        default="all",
        description="entropy over the log of all dimensions, of those that vary, or of the encoder's width for both",
    )
    reference_ranking: Literal["r2", "completeness"] = Field(
        default="r2", description="the dense layer's ten factors for completeness: ranked by R2, or as the codes' are"
    )
    degenerate_factors: Literal["keep", "drop"] = Field(
        default="keep", description="factors whose 10-bin entropy is below 0.3 bit stay in, or leave"
    )
    factors_averaged: Literal["10", "all"] = Field(
        default="10", description="means over the ten best factors of each representation, or over all"
    )
    categories: Literal["substring", "egemaps"] = Field(
        default="substring", description='"F0" and "loudness" in a name decide, or what the functional measures'
    )
    disentanglement_average: Literal["mean", "sum"] = Field(
        default="mean", description="divided once more by the number of dimensions, or not"
    )

    @field_validator("completeness_of_unpredicted", "factors_averaged", mode="before")
    @classmethod
    def _spelled(cls, value: object) -> object:
        return str(value)  # YAML reads 1 and 10 as numbers


class Switches(MetricSwitches):
    """All switches: metrics, audio input and training."""

    vibrado: Literal["drop", "fix"] = Field(
        default="drop", description='files named "vibrado" vanish from the corpus, or count as vibrato'
    )
    valid_split: Literal["files", "singers"] = Field(
        default="files", description="validation files are drawn from all training singers, or whole singers are"
    )
    padding: Literal["counted", "masked"] = Field(
        default="counted", description="zeros behind a short clip are encoded and averaged with the sound, or left out"
    )
    encoder_mode: Literal["train", "eval"] = Field(
        default="train", description="dropout, LayerDrop and time masks disturb the training clips, or nothing does"
    )
    wavlm: Literal["wav2vec2", "wavlm"] = Field(
        default="wav2vec2", description="WavLM's weights in wav2vec 2.0, without its position bias, or in WavLM"
    )
    mert_rate: Literal["mixed", "fix"] = Field(
        default="mixed", description="layers 7, 9 and 10 of MERT are probed on 16 kHz sound played as 24 kHz, or not"
    )
    factor_audio: Literal["whole", "crop"] = Field(
        default="whole",
        description="factors are regressed on codes of whole files, or of the 5 s that dictionaries saw",
    )
    checkpoint: Literal["last_batch", "all"] = Field(
        default="last_batch", description="the best dictionary by the last validation batch, or by all of them"
    )
    layers: Literal["published", "test", "valid"] = Field(
        default="published",
        description="the published pairs, or pairs chosen anew by the same rule on test or on validation accuracy",
    )
    hubert_99: Literal["mislabelled", "fix"] = Field(
        default="mislabelled",
        description="the 99 % dictionary of HuBERT's first layer is probed at k of 75 % and labelled so, or at its own",
    )


class Mariotte2025Settings(MetricSwitches):
    """Settings of the evaluation of one representation."""

    probe_epochs: Repeats = Field(default=120, description="times that a probe sees each training file")
    alpha: float = Field(default=ALPHA, gt=0, le=1e9, description="LASSO penalty, never tuned")
    seed: Seed = Field(default=42, description="of the split, the crops, the dictionaries and the probes")


class ReproductionSettings(Switches, Mariotte2025Settings):
    """Switches and effort, set by `--set NAME=VALUE`; with less effort a run is a trial, not a reproduction."""

    latents: Latents = Field(default=2048, description="atoms of a dictionary")
    sparsities: tuple[float, ...] = Field(default=PAPER_SPARSITIES, min_length=1, description="one dictionary each")
    crops: Repeats = Field(
        default=8, description="random 5 s crops of a training file that are encoded; the authors cut 100"
    )
    sae_epochs: Repeats = Field(default=100, description="times that a dictionary sees each training file")

    @property
    def corrected(self) -> dict[str, str]:
        """Switches that differ from the authors' code."""
        return {
            name: getattr(self, name) for name, default in authors_choices().items() if getattr(self, name) != default
        }


def authors_choices() -> dict[str, str]:
    """Return the authors' choice of every switch."""
    return {name: str(field.default) for name, field in Switches.model_fields.items()}


def allowed_choices(switch: str) -> tuple[str, ...]:
    """Return the allowed choices of a switch, the authors' choice first."""
    annotation: Any = Switches.model_fields[switch].annotation
    return tuple(annotation.__args__)


def parse_settings(overrides: Sequence[str] = ()) -> ReproductionSettings:
    """Return settings from `NAME=VALUE` texts; raise `ConfigError` for an unknown name or a value not allowed.

    >>> parse_settings(["vibrado=fix", "crops=2"]).corrected
    {'vibrado': 'fix'}
    """
    given: dict[str, object] = {}
    for text in overrides:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(
                f"--set wants NAME=VALUE, got {quote(text)}; {suggest(name, ReproductionSettings.model_fields)}"
            )
        try:
            given[name.strip()] = parse_yaml(value)
        except ConfigError as error:
            raise ConfigError(f"--set {quote(text)}: the value is not valid YAML ({error})") from error
    return validate_settings(ReproductionSettings, given, section="mariotte2025")
