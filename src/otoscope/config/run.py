"""Configuration of a run: one validated model with a section per stage."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from otoscope.config.base import Latents, Layers, Section, Seed, Share, Unique, as_tuple, collect_errors
from otoscope.config.mariotte2025 import PAPER_SPARSITIES, Mariotte2025Settings
from otoscope.config.strict import StrictSettings
from otoscope.config.yaml_text import MAX_NAME
from otoscope.corpus.catalog import corpus_from_dict
from otoscope.corpus.listing import CorpusSpec, UserPath
from otoscope.corpus.splits import Splits
from otoscope.errors import ConfigError, quote, suggest
from otoscope.hardware import DEVICE_HELP
from otoscope.paths import user_path
from otoscope.sae.config import PRESETS, TrainConfig, find_preset, require_compatible
from otoscope.sae.sparsifiers.base import k_from_sparsity

Pooling = Literal["encode_then_pool", "pool_then_encode"]

MAX_SAES = 10_000
"""Most SAEs of a grid, per layer: each has its own folder, training and evaluation."""

PRESET_NAME = r"[a-z0-9][a-z0-9_.-]*"
"""Allowed names of presets: a name is part of a folder name, also on case-insensitive file systems."""

ProtocolName = Literal["held_out", "mariotte2025", "strict"]


class FactorSettings(Section):
    """Sources of factors."""

    egemaps: bool = Field(default=True, description="88 eGeMAPSv02 functionals through openSMILE (extra `factors`)")
    truth: bool = Field(default=True, description="the factor_* columns of the corpus")
    table: UserPath | None = Field(default=None, description="your own CSV or Parquet, joined by clip_id or path")

    def measures(self, *, corpus_has: bool) -> bool:
        """Return whether there are factors, for a corpus that has some of its own or none."""
        return self.egemaps or self.table is not None or (self.truth and corpus_has)


class ExtractSettings(Section):
    """Layers, precision and windows of the extraction."""

    layers: Layers = Field(default="all", description="0 is the input of the first block")
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    precision: Literal["exact", "fast"] = Field(
        default="exact", description="exact: float32 as in transformers; fast: matrix products in bfloat16"
    )
    context: Literal["exact", "short"] = Field(
        default="exact", description="Whisper: exact pads to 30 s as in training; short uses the actual duration"
    )
    window_s: Annotated[float, Field(ge=0.1, le=3600.0)] = Field(
        default=30.0, description="length of the windows of longer clips, limited by the model"
    )
    overlap_s: Annotated[float, Field(ge=0.0, lt=3600.0)] = Field(
        default=0.0,
        description="overlap of adjacent windows; each frame is taken from the window with the nearer centre",
    )
    frames: bool = Field(default=True, description="store every frame in addition to the mean over each clip")
    segment_s: Annotated[float, Field(ge=0.01, le=86_400.0)] | None = Field(
        default=None, description="also store the mean over every segment of this length"
    )
    segments: UserPath | None = Field(
        default=None,
        description="also store the mean over each segment of a CSV or Parquet table with clip_id, start_s, end_s",
    )
    store: str | None = Field(
        default=None, description="storage of activations, e.g. s3://bucket/name; default: the run folder"
    )

    @field_validator("store")
    @classmethod
    @collect_errors
    def _expand_home(cls, value: str | None) -> str | None:
        if value is None or "://" in value:
            return value
        if scheme := re.match(r"(\w[\w+.-]+):", value):  # two letters at least: one is a drive of Windows
            raise ValueError(f"an address has two slashes after its scheme, as in {scheme[1]}://...")
        try:
            return str(user_path(value))
        except ConfigError as error:
            raise ConfigError(f"extract.store: {error}") from error

    @model_validator(mode="after")
    def _one_kind_of_segments(self) -> "ExtractSettings":
        if self.segment_s is not None and self.segments is not None:
            raise ValueError("give segment_s or segments, not both")
        if self.overlap_s >= self.window_s:
            raise ValueError(f"overlap_s is {self.overlap_s:g}; it must be below window_s ({self.window_s:g})")
        return self


class TrainSettings(Section):
    """Grid of SAEs to train: layers x poolings x presets x latents x sparsities x seeds."""

    presets: dict[str, dict[str, Any]] = Field(
        default={}, description="your own presets by name: the preset they are `based_on`, and the changed settings"
    )
    preset: Annotated[str | tuple[str, ...], Unique] = Field(
        default="default", description="a training preset or several; `otoscope models` lists the built-in ones"
    )
    latents: Annotated[Latents | tuple[Latents, ...], Unique] = Field(
        default=2048, description="number of latents, or several"
    )
    sparsities: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Unique] = PAPER_SPARSITIES
    layers: Layers = Field(default="all", description="some of the extracted layers")
    poolings: Annotated[tuple[Pooling, ...], Unique] = Field(
        default=("encode_then_pool",),
        description="encode frames and pool the codes, or encode pooled rows as the paper does",
    )
    seeds: Annotated[tuple[Seed, ...], Unique] = (0,)

    @field_validator("presets", mode="before")
    @classmethod
    @collect_errors
    def _check_presets(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ConfigError(f"train.presets: got {quote(value)}; give `NAME: {{based_on: default, ...}}`")
        for name, settings in value.items():
            if not isinstance(name, str) or not re.fullmatch(PRESET_NAME, name):
                raise ConfigError(
                    f"train.presets: got the name {quote(name)}; use lower-case letters, digits, _, . and -"
                )
            if name in PRESETS:
                raise ConfigError(f"train.presets: {quote(name)} is built in; choose another name")
            if not isinstance(settings, Mapping):
                raise ConfigError(
                    f"train.presets.{name}: got {quote(settings)}; give `based_on: ...` and the changed settings"
                )
            _described_preset(name, settings)
        return value

    @property
    def preset_names(self) -> tuple[str, ...]:
        """Names of the presets, one or several."""
        return as_tuple(self.preset)

    @property
    def dictionaries(self) -> tuple[int, ...]:
        """Numbers of latents, one or several."""
        return as_tuple(self.latents)

    @model_validator(mode="after")
    @collect_errors
    def _trainable(self) -> "TrainSettings":
        lists = (self.poolings, self.preset_names, self.dictionaries, self.sparsities, self.seeds)
        if (saes := math.prod(map(len, lists))) > MAX_SAES:
            raise ConfigError(f"train: {saes:,} SAEs per layer; at most {MAX_SAES:,}, so give fewer values")
        for latents, sparsity in product(self.dictionaries, self.sparsities):
            try:
                k_from_sparsity(latents, sparsity)
            except ConfigError as error:
                raise ConfigError(f"train.sparsities: {sparsity}: {error}") from error
        for name in self.preset_names:
            self.require(name, key="train.preset", poolings=self.poolings)
        return self

    def train_config(self, name: str) -> TrainConfig:
        """Return a preset by name, one of this configuration or a built-in one."""
        return _described_preset(name, self.presets[name]) if name in self.presets else find_preset(name)

    def require(self, name: str, *, key: str, poolings: Sequence[Pooling]) -> None:
        """Raise `ConfigError` unless a preset exists and is compatible with every number of latents and these poolings.

        `key` is the setting that names the preset.
        """
        if name not in PRESETS and name not in self.presets:
            raise ConfigError(f"{key}: no preset {quote(name)}; {suggest(name, [*PRESETS, *self.presets])}")
        for latents in self.dictionaries:
            try:
                require_compatible(
                    self.train_config(name), latents=latents, neighbours="pool_then_encode" not in poolings
                )
            except ConfigError as error:
                raise ConfigError(f"train.presets.{name}: {error}") from error


def _described_preset(name: str, settings: Mapping[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.from_mapping(settings)
    except ConfigError as error:
        raise ConfigError(f"train.presets.{name}: {error}") from error


class EvaluateSettings(Section):
    """Protocols and their settings."""

    protocols: Annotated[tuple[ProtocolName, ...], Unique] = Field(
        default=("held_out",),
        description="held_out: dense layers and SAEs on held-out groups; strict: with baselines and nulls; "
        "mariotte2025: as in the study, on SAEs of pooled clips",
    )
    labels: tuple[str, ...] | None = Field(
        default=None, description="labels to probe; default: all labels of the corpus"
    )
    covariates: tuple[str, ...] | None = Field(
        default=None,
        description="labels, such as sex, whose classes are compared only with themselves beside every factor; "
        "default: labels that are constant within groups and have several groups per class",
    )
    completeness_min_r2: Share = Field(
        default=0.05, description="held-out R2 below which a factor counts as not predicted"
    )
    strict: StrictSettings = Field(default=StrictSettings(), description="settings of the strict protocol")
    mariotte2025: Mariotte2025Settings = Field(
        default=Mariotte2025Settings(),
        description="settings of the mariotte2025 protocol: one switch per defect of the published code",
    )


ExplainStep = Literal[
    "firing",
    "top_clips",
    "cards",
    "splice",
    "annotations",
    "interventions",
    "erasure",
    "lens",
    "attribution",
    "sweeps",
    "matching",
]


class ExplainSettings(Section):
    """Contents of `explain/`."""

    only: Annotated[tuple[ExplainStep, ...], Unique] = Field(
        default=("firing", "top_clips", "cards", "splice", "annotations"),
        description="firing: examples, silent clips, classes and co-firing of the explained latents; "
        "top_clips: sound and pictures for the report's gallery; cards: when latents fire, in words, with blind "
        "scores, response curves and temporal profiles; splice: what later layers hold if the reconstruction replaces "
        "the layer; annotations: the best latent for each label of corpus.annotations; interventions: effects of "
        "changed latents and of rival directions on later layers; erasure: what every readout loses when a concept is "
        "erased, and swaps between clips; lens: transcripts from each layer of Whisper; attribution: decisions as "
        "sums over latents, and the parts of a sound on which latents depend; sweeps: response while the synthesiser "
        "changes one factor of a voice; matching: latents that fire together, and with dictionaries all their partners "
        "in the other dictionaries (cards and what follows, except matching, for dictionaries of frames)",
    )
    dictionaries: Literal["shown", "all"] = Field(
        default="shown", description="dictionaries whose codes are indexed: the gallery's, or all"
    )
    match_run: UserPath | None = Field(
        default=None,
        description="another run on the same recordings, of any encoder, whose indexed dictionaries are matched",
    )
    latents: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="latents to explain in addition to those of the gallery"
    )
    clips: Annotated[int, Field(ge=2)] = Field(
        default=200, description="clips whose frames are described for the cards, half of them of test groups"
    )
    splice_clips: Annotated[int, Field(ge=2)] = Field(
        default=20, description="clips of test groups that are encoded with a replaced layer"
    )
    concepts: Annotated[int, Field(ge=1, le=50)] = Field(
        default=4, description="classes and factors on which interventions are tested, those that are read out best"
    )
    intervention_clips: Annotated[int, Field(ge=2)] = Field(
        default=8, description="clips of test groups with a concept, and as many without it, that interventions change"
    )
    erasure_clips: Annotated[int, Field(ge=4)] = Field(
        default=24, description="clips of test groups from which concepts are erased"
    )
    sweep_clips: Annotated[int, Field(ge=0)] = Field(
        default=240, description="sung clips in which all factors vary, for the shares of variance of `sweeps`"
    )
    examples: Annotated[int, Field(ge=1, le=100)] = Field(default=10, description="top activations per latent")


class ReportSettings(Section):
    """Contents of the page."""

    title: Annotated[str, Field(max_length=500)] | None = None
    classes: Annotated[int, Field(ge=0, le=60)] = Field(
        default=12, description="classes of labels in the gallery of latents"
    )
    factors: Annotated[int, Field(ge=0, le=30)] = Field(default=8, description="factors in the gallery of latents")
    clips: Annotated[int, Field(ge=1, le=8)] = Field(default=3, description="clips per latent in the gallery")


class RunConfig(Section):
    """Configuration of a run from audio to report."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=MAX_NAME)]
    model: str = "openai/whisper-tiny.en"
    revision: str | None = None
    corpus: Any
    splits: Splits = Splits()
    device: str = Field(default="auto", description="device of encoders and SAE training: auto, cpu, cuda, cuda:1, mps")
    max_set_aside: Share = Field(default=0.2, description="share of unusable clips that stops the run")
    factors: FactorSettings = FactorSettings()
    extract: ExtractSettings = ExtractSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    explain: ExplainSettings = ExplainSettings()
    report: ReportSettings = ReportSettings()

    def __repr__(self) -> str:
        """Return the name, the model and the corpus; `model_dump()` has every setting."""
        return f"RunConfig(name={self.name!r}, model={self.model!r}, corpus={type(self.corpus).__name__})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _frames_to_train_on(self) -> "RunConfig":
        if not self.extract.frames and "encode_then_pool" in self.train.poolings:
            raise ValueError("train.poolings: encode_then_pool needs frames; set pool_then_encode, or extract.frames")
        if "mariotte2025" in self.evaluate.protocols and "pool_then_encode" not in self.train.poolings:
            raise ValueError(
                "evaluate.protocols: mariotte2025 evaluates pooled clips; add pool_then_encode to train.poolings"
            )
        return self

    @model_validator(mode="after")
    @collect_errors
    def _check_limit_presets(self) -> "RunConfig":
        for name in self.evaluate.strict.limit_presets:
            self.train.require(name, key="evaluate.strict.limit_presets", poolings=self.train.poolings[:1])
        return self

    @field_validator("device")
    @classmethod
    def _known(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError(DEVICE_HELP)
        return value

    @field_validator("corpus", mode="before")
    @classmethod
    @collect_errors
    def _corpus(cls, value: object) -> object:
        if isinstance(value, CorpusSpec):
            return value
        if not isinstance(value, dict):
            raise ConfigError(f"corpus: got {quote(value)}; give `kind: ...` and that kind's settings")
        return corpus_from_dict(value)
