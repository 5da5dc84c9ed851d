"""Configuration of a run: one validated model with a section per stage."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from otoscope.config.base import Layers, Section, Share, Unique
from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.config.strict import StrictSettings
from otoscope.config.train import TrainSettings
from otoscope.config.yaml_text import MAX_NAME
from otoscope.corpus.catalog import corpus_from_dict
from otoscope.corpus.listing import CorpusSpec, UserPath
from otoscope.corpus.splits import Splits
from otoscope.errors import ConfigError, quote
from otoscope.hardware import DEVICE_HELP
from otoscope.paths import user_path

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
    def _expand_home(cls, value: str | None) -> str | None:
        if value is None or "://" in value:
            return value
        if scheme := re.match(r"(\w[\w+.-]+):", value):  # two letters at least: one is a drive of Windows
            raise ValueError(f"an address has two slashes after its scheme, as in {scheme[1]}://...")
        return str(user_path(value))

    @model_validator(mode="after")
    def _one_kind_of_segments(self) -> "ExtractSettings":
        if self.segment_s is not None and self.segments is not None:
            raise ValueError("give segment_s or segments, not both")
        if self.overlap_s >= self.window_s:
            raise ValueError(f"overlap_s is {self.overlap_s:g}; it must be below window_s ({self.window_s:g})")
        return self


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
    covariates: tuple[str, ...] = Field(
        default=(),
        description="labels, such as sex, whose classes are compared only with themselves beside every factor",
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
    def _corpus(cls, value: object) -> object:
        if isinstance(value, CorpusSpec):
            return value
        if not isinstance(value, dict):
            raise ConfigError(f"corpus: got {quote(value)}; give `kind: ...` and that kind's settings")
        return corpus_from_dict(value)
