"""The whole run as one validated model, read from YAML."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from otoscope.corpus.catalog import parse_corpus
from otoscope.corpus.listing import CorpusSpec
from otoscope.corpus.splits import Splits
from otoscope.errors import ConfigError, suggest
from otoscope.protocols.mariotte2025.switches import JudgeSettings
from otoscope.protocols.strict.settings import StrictSettings
from otoscope.sae.presets import PRESETS

PAPER_SPARSITIES = (0.75, 0.80, 0.85, 0.90, 0.95, 0.99)
"""The six sparsities of the study (arXiv 2509.24793)."""

Pooling = Literal["encode_then_pool", "pool_then_encode"]
Value = TypeVar("Value")
ProtocolName = Literal["held_out", "mariotte2025", "strict"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Latents = Annotated[int, Field(ge=2)]

PATH_KEYS = {"corpus": ("root", "table"), "extract": ("segments",), "factors": ("table",)}
"""Settings that hold a path; relative ones are read from the folder of the configuration file."""


class Section(BaseModel):
    """One block of the configuration: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FactorSettings(Section):
    """Which factors are measured or known."""

    egemaps: bool = Field(default=True, description="88 eGeMAPSv02 functionals through openSMILE (extra `factors`)")
    truth: bool = Field(default=True, description="the factor_* columns of the corpus")
    table: Path | None = Field(default=None, description="your own CSV or Parquet, joined by clip_id or path")


class ExtractSettings(Section):
    """What is recorded."""

    layers: Literal["all"] | tuple[int, ...] = Field(default="all", description="0 is the input of the first block")

    @field_validator("layers")
    @classmethod
    def _any(cls, value: object) -> object:
        return _not_empty(value)

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    precision: Literal["exact", "fast"] = Field(
        default="exact", description="float32 as transformers computes it, or products in bfloat16"
    )
    context: Literal["exact", "short"] = Field(
        default="exact", description="Whisper: 30 s as trained, or only the sound there is"
    )
    window_s: Annotated[float, Field(gt=0.0)] = Field(
        default=30.0, description="longer clips are encoded in windows of this length, or of what the model takes"
    )
    overlap_s: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="sound that neighbouring windows share; each frame is kept from the nearer one"
    )
    frames: bool = Field(default=True, description="keep every frame, beside the mean over each clip")
    segment_s: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="keep the mean over every window of this length, too"
    )
    segments: Path | None = Field(
        default=None, description="or over the segments of a table: CSV or Parquet with clip_id, start_s, end_s"
    )
    store: str | None = Field(
        default=None, description="where activations are kept, such as s3://bucket/name; the run folder when left out"
    )

    @model_validator(mode="after")
    def _one_kind_of_segments(self) -> "ExtractSettings":
        if self.segment_s is not None and self.segments is not None:
            raise ValueError("give segment_s or segments, not both")
        return self


class TrainSettings(Section):
    """Which dictionaries are trained: layers x poolings x presets x latents x sparsities x seeds."""

    preset: str | tuple[str, ...] = Field(
        default="default", description="a training recipe or several; `otoscope models` lists them"
    )
    latents: Latents | tuple[Latents, ...] = Field(default=2048, description="size of the dictionary, or several")
    sparsities: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = PAPER_SPARSITIES
    layers: Literal["all"] | tuple[int, ...] = Field(default="all", description="a part of the extracted layers")
    poolings: tuple[Pooling, ...] = Field(
        default=("encode_then_pool",),
        description="frames encoded, codes pooled; or the paper's order, pooled rows encoded",
    )
    seeds: tuple[int, ...] = (0,)

    @field_validator("layers")
    @classmethod
    def _any(cls, value: object) -> object:
        return _not_empty(value)

    @field_validator("preset")
    @classmethod
    def _known_presets(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in _each_once(_several(value)):
            if name not in PRESETS:
                raise ConfigError(f"train.preset: no preset {name!r}; {suggest(name, PRESETS)}")
        return value

    @field_validator("latents")
    @classmethod
    def _some_latents(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        _each_once(_several(value))
        return value

    @property
    def presets(self) -> tuple[str, ...]:
        """The training recipes, one or several."""
        return _several(self.preset)

    @property
    def dictionaries(self) -> tuple[int, ...]:
        """The sizes of dictionaries, one or several."""
        return _several(self.latents)

    @field_validator("sparsities", "seeds", "poolings")
    @classmethod
    def _some(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        return _each_once(value)


class EvaluateSettings(Section):
    """How the numbers are made."""

    protocols: tuple[ProtocolName, ...] = Field(
        default=("held_out",),
        description="held_out: every representation by itself; strict: beside its nulls; mariotte2025: as the study "
        "did, on dictionaries of pooled clips",
    )
    labels: tuple[str, ...] | None = Field(default=None, description="labels to probe; all of the corpus when left out")
    permutations: Annotated[int, Field(ge=1)] = Field(default=10, description="refits on permuted labels, for the null")
    resamples: Annotated[int, Field(ge=100)] = Field(default=1000, description="bootstrap draws of whole groups")
    completeness_min_r2: Share = Field(
        default=0.05, description="held-out R2 below which a factor counts as not predicted"
    )
    strict: StrictSettings = Field(default=StrictSettings(), description="settings of the protocol strict")
    mariotte2025: JudgeSettings = Field(
        default=JudgeSettings(), description="settings of the protocol mariotte2025: what its authors' defects decide"
    )

    @field_validator("protocols")
    @classmethod
    def _some(cls, value: tuple[ProtocolName, ...]) -> tuple[ProtocolName, ...]:
        return _each_once(value)


class ReportSettings(Section):
    """What the page shows."""

    title: str | None = None
    factors: Annotated[int, Field(ge=0, le=30)] = Field(default=8, description="factors in the gallery of latents")
    clips: Annotated[int, Field(ge=1, le=8)] = Field(default=3, description="clips a latent in the gallery")


class RunConfig(Section):
    """A run from sound to report."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    model: str = "openai/whisper-tiny.en"
    revision: str | None = None
    corpus: Any
    splits: Splits = Splits()
    max_set_aside: Share = Field(default=0.2, description="share of unusable clips that stops the run")
    factors: FactorSettings = FactorSettings()
    extract: ExtractSettings = ExtractSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _frames_to_train_on(self) -> "RunConfig":
        if not self.extract.frames and "encode_then_pool" in self.train.poolings:
            raise ValueError("train.poolings: encode_then_pool needs frames; set pool_then_encode, or extract.frames")
        if "mariotte2025" in self.evaluate.protocols and "pool_then_encode" not in self.train.poolings:
            raise ValueError(
                "evaluate.protocols: mariotte2025 judges pooled clips; add pool_then_encode to train.poolings"
            )
        return self

    @field_validator("corpus", mode="before")
    @classmethod
    def _corpus(cls, value: object) -> object:
        if isinstance(value, CorpusSpec):
            return value
        if not isinstance(value, dict):
            raise ConfigError(f"corpus: got {value!r}; give `kind: ...` and that kind's settings")
        return parse_corpus(value)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a configuration; each override is `key.sub=VALUE` with VALUE in YAML.

    `${NAME}` and `${NAME:-default}` in strings are taken from the environment. Raises
    `ConfigError` that names the key, what it got and what is allowed.
    """
    path = Path(path)
    try:
        raw: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, got {type(raw).__name__}")
    try:
        return _parse(raw, path, overrides)
    except ConfigError as error:
        if not (blamed := _to_blame(raw, path, overrides)):
            raise
        message = str(error).removeprefix(f"{path}: ")
        raise ConfigError(message if message.startswith("--set") else f"{blamed}: {message}") from error


def _parse(raw: dict[str, Any], path: Path, overrides: Sequence[str]) -> RunConfig:
    raw = deepcopy(raw)
    for override in overrides:
        _apply(raw, override)
    expanded = _expand({"name": path.stem, **raw})
    _anchor(expanded, path.resolve().parent)
    return parse_config(expanded, where=str(path))


def _to_blame(raw: dict[str, Any], path: Path, overrides: Sequence[str]) -> str:
    """Return the overrides that spoil a file, as they were given: those it is valid without, or all; or nothing."""
    if not overrides or not _is_valid(raw, path, ()):
        return ""
    others = [(*overrides[:at], *overrides[at + 1 :]) for at in range(len(overrides))]
    alone = [override for override, rest in zip(overrides, others, strict=True) if _is_valid(raw, path, rest)]
    return " ".join(f"--set {override}" for override in alone or overrides)


def _is_valid(raw: dict[str, Any], path: Path, overrides: Sequence[str]) -> bool:
    try:
        _parse(raw, path, overrides)
    except ConfigError:
        return False
    return True


def parse_config(raw: Mapping[str, Any], *, where: str = "configuration") -> RunConfig:
    """Validate a configuration that is already a mapping."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(e, raw) for e in error.errors()[:3])) from error


def _apply(raw: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign:
        raise ConfigError(f"--set wants key.sub=VALUE, got {override!r}")
    *parents, last = key.strip().split(".")
    for parent in parents:
        section: object = raw.get(parent)
        if section is None:  # absent, or a section's name with nothing under it
            section = raw[parent] = {}
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is not a section")
        raw = section
    try:
        raw[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from error


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _expand(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v) for v in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", _variable, value)
    return value


def _variable(match: re.Match[str]) -> str:
    name: str = match.group(1)
    default: str | None = match.group(2)
    found = os.environ.get(name)
    if found is None:
        found = default
    if found is None:
        raise ConfigError(f"the configuration needs the environment variable {name}, which is not set")
    return found


def _anchor(raw: dict[str, Any], folder: Path) -> None:
    for section, keys in PATH_KEYS.items():
        block = raw.get(section)
        for key in keys:
            if isinstance(block, dict) and isinstance(block.get(key), str):
                block[key] = str(folder / Path(block[key]).expanduser())
    model = raw.get("model")
    if isinstance(model, str) and model.startswith((".", "~")):
        raw["model"] = str(folder / Path(model).expanduser())


def _explain(error: Any, raw: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {place!r}; {suggest(error['loc'][-1], _keys_at(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{place!r} is missing" + ("" if raw else " (the file is empty)")
    known: list[str] = re.findall(r"'([^']*)'", error["ctx"]["expected"]) if error["type"] == "literal_error" else []
    if len(known) > 1:  # one word alone is mostly what may stand in a number's place
        return f"{place}: got {error['input']!r}; {suggest(error['input'], known)}"
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):  # a section: the message names the clash
        told = error["msg"].removeprefix("Value error, ")
        return f"{place}: {told}" if place else told
    return f"{place}: got {error['input']!r}; {error['msg'].removeprefix('Value error, ')}"


def _several(value: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else (value,)


def _each_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if not values or len(set(values)) != len(values):
        raise ValueError("give at least one value, each once")
    return values


def _not_empty(layers: object) -> object:
    if layers == ():
        raise ValueError("give at least one layer, or all")
    return layers


def _keys_at(location: Iterable[object]) -> list[str]:
    model: Any = RunConfig
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        model = next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")), model)
    return list(model.model_fields)
