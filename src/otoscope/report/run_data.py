"""Contents of a run folder as a report reads them; everything but the results may be missing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import read_json_as, read_table
from otoscope.config.yaml_text import parse_yaml
from otoscope.corpus.health import corpus_properties
from otoscope.errors import ConfigError, DamagedArtifact
from otoscope.explain import TopClips, read_top_clips
from otoscope.formatting import NBSP, comma_list
from otoscope.metrics.predictions import accuracies_of_few_groups, predictions_of
from otoscope.metrics.record import SCHEMA
from otoscope.metrics.results import Row
from otoscope.report.results import Results
from otoscope.runs.cards import is_whole, read_card
from otoscope.runs.inputs import default_covariates, probeable_labels

NO_CATEGORY = "other"

UNSHOWN = ("explain/index/", "parts/", "sound/")
"""Files of a run that no page shows."""


@dataclass(frozen=True)
class RunData:
    """Contents of a run folder, as far as they exist."""

    folder: Path
    results: Results
    config: dict[str, Any]
    corpus: dict[str, Any]
    clips: pl.DataFrame | None
    set_aside: pl.DataFrame | None
    suspects: pl.DataFrame | None
    factors: dict[str, Any]
    cards: dict[str, dict[str, Any]]
    activations: dict[str, Any]
    top_clips: TopClips | None

    @property
    def name(self) -> str:
        """The run's name: the configuration's, or the folder's."""
        return str(self.config.get("name") or self.folder.name)

    @property
    def title(self) -> str:
        """The page's title: the configuration's, or one built from encoder and corpus.

        A corpus of the user's own files is named by the run, because its own name is that of a folder or table.
        """
        title = (self.config.get("report") or {}).get("title")
        own = (self.config.get("corpus") or {}).get("kind") in ("folder", "manifest")
        name = None if own else self.corpus.get("name")
        return str(title or f"{self.encoder} on {name or self.name}")

    @property
    def encoder(self) -> str:
        """The encoder's identifier, as the results name it."""
        column = self.results.rows["encoder"].drop_nulls()
        names = [name for name in column.unique(maintain_order=True) if name]
        return names[0] if names else str(self.config.get("model") or "the encoder")

    @property
    def per_fold(self) -> bool:
        """True if each fold of a cross-fit has dictionaries of its own."""
        return has_fold_dictionaries(self.config)

    @cached_property
    def labels(self) -> list[str]:
        """Labels whose classes were predicted, by any protocol: those of the configuration, or all that can be.

        Without a table of clips, those of the probes.
        """
        if self.clips is None:
            return self.results.labels
        asked = (self.config.get("evaluate") or {}).get("labels")
        asked = probeable_labels(self.clips) if asked is None else [str(name) for name in asked]
        known = [name for name in asked if f"label_{name}" in self.clips.columns]
        return list(dict.fromkeys([*self.results.labels, *known]))

    @cached_property
    def covariates(self) -> list[str]:
        """Labels whose classes `factor_r2_given` compares only with themselves; empty where it was not measured."""
        if self.clips is None or not self.results.where(metric="factor_r2_given"):
            return []
        asked = (self.config.get("evaluate") or {}).get("covariates")
        return default_covariates(self.clips) if asked is None else [str(name) for name in asked]

    @property
    def single_clip_groups(self) -> bool:
        """True if every group has one clip, so that clips are compared between groups only."""
        return self.clips is not None and self.clips.height > 0 and self.clips["group"].is_unique().all()

    @property
    def properties(self) -> list[str]:
        """Findings on so many clips that they are a property of the corpus."""
        if self.suspects is None or self.clips is None:
            return []
        return corpus_properties(self.suspects, self.clips, lengths=self.recorded)

    @property
    def recorded(self) -> bool:
        """True if clips have the lengths of their recordings, which a synthesised corpus sets."""
        return (self.config.get("corpus") or {}).get("kind") != "synth"

    def category(self, factor: str) -> str:
        """Return a factor's category; "other" for a factor that the card does not list."""
        return category_of(self.categories, factor)

    def labels_of(self, clip_id: str) -> dict[str, str]:
        """Return the predicted labels of a clip; empty for an unknown clip."""
        return self._labels.get(clip_id, {})

    @cached_property
    def _labels(self) -> dict[str, dict[str, str]]:
        if self.clips is None:
            return {}
        names = [name for name in self.labels if f"label_{name}" in self.clips.columns]
        rows = self.clips.select("clip_id", *(f"label_{name}" for name in names)).iter_rows()
        return {clip: {name: str(v) for name, v in zip(names, values, strict=True) if v} for clip, *values in rows}

    def explained(self, table: str) -> pl.DataFrame | None:
        """Return a table of `explain/`; None if it was not written or has no rows."""
        found = _table(self.folder / "explain" / f"{table}.parquet")
        return None if found is None or found.is_empty() else found

    @cached_property
    def predictions(self) -> pl.DataFrame | None:
        """Predicted classes of test clips; None without `predictions.parquet` or its rows."""
        found = _table(self.folder / "predictions.parquet")
        return None if found is None or found.is_empty() else found

    def predicted_by(self, label: str, row: Row) -> pl.DataFrame | None:
        """Return the predictions of a label by the probe of a row of the results; None without any."""
        return predictions_of(self.predictions, label, row)

    def few_groups(self, label: str, row: Row) -> str:
        """Return the accuracies of few test groups as the reason of a wide interval; empty where it is not wide."""
        found = accuracies_of_few_groups(self.predictions, label, row)
        noun = self.corpus.get("group_noun") or "group"
        each = comma_list(f"{100 * accuracy:.0f}" for accuracy in found)
        return f"per {noun} {each}{NBSP}%, few {noun}s for an interval" if found else ""

    @property
    def categories(self) -> dict[str, str]:
        """Category of each factor of the factors' card, in its order."""
        return categories_of(self.factors)


def has_fold_dictionaries(config: Mapping[str, Any]) -> bool:
    """True if a run's configuration has separate dictionaries for each fold of a cross-fit."""
    return (config.get("splits") or {}).get("dictionaries") == "per_fold"


def categories_of(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the category of each factor listed in the card of a table of factors."""
    return {f["name"]: f.get("category") or NO_CATEGORY for f in card.get("factors", [])}


def category_of(categories: Mapping[str, str], factor: str) -> str:
    """Return a factor's category, "other" if it has none."""
    return categories.get(factor, NO_CATEGORY)


def read_run(folder: Path) -> RunData:
    """Load a run folder.

    Raises `IncompleteArtifact` without results, and `DamagedArtifact` if they lack columns, or if a file that the page
    shows differs from the card of its stage.
    """
    for stage in ("corpus", "factors", "train", "evaluate", "explain"):
        _require_whole(folder, folder / "stages" / f"{stage}.json")
    rows = read_table(folder / "results.parquet")
    if missing := SCHEMA.keys() - set(rows.columns):
        raise DamagedArtifact(
            f"{folder / 'results.parquet'} lacks the columns {sorted(missing)}; delete it and evaluate again"
        )
    evaluated = set(rows["sae_id"])  # saes/ may also hold dictionaries of earlier settings
    return RunData(
        folder=folder,
        results=Results(rows.select(list(SCHEMA))),
        config=read_config(folder),
        corpus=_json(folder / "corpus.json"),
        clips=_table(folder / "corpus.parquet"),
        set_aside=set_aside(folder),
        suspects=_table(folder / "suspects.parquet"),
        factors=_json(folder / "factors.json"),
        cards={p.parent.name: _json(p) for p in sorted(folder.glob("saes/*/card.json")) if p.parent.name in evaluated},
        activations=_json(folder / "activations" / "manifest.json"),
        top_clips=read_top_clips(folder / "explain"),
    )


def _require_whole(folder: Path, card: Path) -> None:
    """Raise `DamagedArtifact` for a file of a stage with other content; large ones that no page shows are not read."""
    outputs = (read_card(card) or {"outputs": {}})["outputs"]
    for name, sha256 in outputs.items():
        shown = not name.startswith(UNSHOWN) and not name.endswith(".safetensors")
        if shown and os.path.lexists(folder / name) and not is_whole(folder, name, sha256):
            raise DamagedArtifact(f"{folder / name} is damaged: it differs from its checksum in {card}; run again")


def set_aside(folder: Path) -> pl.DataFrame | None:
    """Return the clips that could not be used as `path, reason`: undecodable or silent clips, then too short ones."""
    listed, stored = _table(folder / "set_aside.parquet"), folder / "activations"
    too_short = ActivationStore.open(stored).set_aside if (stored / "manifest.json").is_file() else None
    tables = [table.select("path", "reason") for table in (listed, too_short) if table is not None]
    return pl.concat(tables) if tables else None


def _json(path: Path) -> dict[str, Any]:
    return read_json_as(path, dict[str, Any]) if path.is_file() else {}


def _table(path: Path) -> pl.DataFrame | None:
    return read_table(path) if path.is_file() else None


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run; empty if the folder has none."""
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    try:
        loaded = parse_yaml(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        raise DamagedArtifact(f"{path} is not valid YAML ({error}); run again to rewrite it") from error
    return loaded if isinstance(loaded, dict) else {}
