"""Training of a grid of SAEs on one activation store; interrupted trainings are resumed.

A bank trains all SAEs of one layer and pooling together, because they read the same rows.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint, read_json_as
from otoscope.config import Pooling, RunConfig
from otoscope.corpus.splits import Splits
from otoscope.errors import ArtifactError, UnknownLayer
from otoscope.executors.base import run_tasks
from otoscope.formatting import count, percent
from otoscope.resampling.groups import fold_splits
from otoscope.runs.cards import is_whole
from otoscope.runs.code_version import code_version
from otoscope.runs.context import Context
from otoscope.runs.folder import load_corpus
from otoscope.runs.progress import ProgressReporter, task
from otoscope.sae.bank import Bank, BankMember, fit_in_memory
from otoscope.sae.checkpoint import CARD, WEIGHTS
from otoscope.sae.config import TrainConfig
from otoscope.sae.data import ArrayRows, RowSource
from otoscope.sae.loggers import MetricLogger, open_logger
from otoscope.sae.sparsifiers.base import k_from_sparsity
from otoscope.sae.validation import AXES_START, OTHER_START, UNCHANGED_COSINE, UNCHANGED_SHARE


@dataclass(frozen=True)
class GridMember:
    """Settings of one SAE of the grid."""

    layer: int
    pooling: Pooling
    preset: str
    latents: int
    sparsity: float
    seed: int
    untrained: bool = False
    """True if it is trained on the encoder with randomly initialised weights."""
    fold: int | None = None
    """Fold of a cross-fit whose training groups it is trained on; None: the train groups of the one split."""

    @property
    def k(self) -> int:
        """Number of active latents per row."""
        return k_from_sparsity(self.latents, self.sparsity)

    @property
    def sae_id(self) -> str:
        """Name of the SAE and of its folder."""
        order = {"encode_then_pool": "frames", "pool_then_encode": "pooled"}[self.pooling]
        prefix = "untrained-" if self.untrained else ""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{prefix}layer{self.layer:02d}-{order}-{self.preset}-m{self.latents}-k{self.k}-seed{self.seed}{fold}"

    def columns(self) -> dict[str, Any]:
        """Return the columns of a record that identify the SAE."""
        return {
            "sae_id": self.sae_id,
            "preset": self.preset,
            "latents": self.latents,
            "k": self.k,
            "sparsity": self.sparsity,
            "seed": self.seed,
            "pooling": self.pooling,
        }


def training_grid(config: RunConfig, extracted: list[int]) -> list[GridMember]:
    """Return the SAEs of a configuration in training order.

    Raises `UnknownLayer` when `train.layers` names a layer that is not extracted, `ConfigError` when a
    sparsity leaves no active latent.
    """
    settings = config.train
    layers = extracted if settings.layers == "all" else sorted(set(settings.layers))
    if missing := sorted(set(layers) - set(extracted)):
        raise UnknownLayer(f"train.layers: {missing} are not extracted; extract.layers gives {extracted}")
    return [
        GridMember(layer, pooling, preset, latents, sparsity, seed)
        for layer, pooling, preset, latents, sparsity, seed in product(
            layers, settings.poolings, settings.preset_names, settings.dictionaries, settings.sparsities, settings.seeds
        )
    ]


def fold_members(member: GridMember, splits: Splits, folds: int) -> list[GridMember]:
    """Return the SAEs behind the cross-fitted scores of a member: one per fold, or none if the folds share it.

    >>> member = GridMember(3, "encode_then_pool", "default", 64, 0.9, 0)
    >>> [one.fold for one in fold_members(member, Splits(dictionaries="per_fold"), 3)]
    [0, 1, 2]
    >>> fold_members(member, Splits(), 3)
    []
    """
    return [replace(member, fold=fold) for fold in range(folds)] if splits.per_fold else []


TRAINING_CODE = ("otoscope.sae",)
"""Code that the weights depend on."""

SAVE_EVERY_S = 60.0
"""Interval between saved states: a killed run loses at most this much training."""


class GridTraining:
    """Training of SAEs on one store: input fingerprints, and training of the missing ones."""

    def __init__(self, run: Context, store: ActivationStore, grid: Sequence[GridMember]) -> None:
        self.run, self.folder, self.progress, self.store = run, run.folder, run.progress, store
        clips = load_corpus(run.folder).select(store.clip_ids).clips
        folds = fold_splits(clips["fold"].to_numpy()) if "fold" in clips.columns else ()
        of_rows = {None: clips["split"].to_numpy(), **dict(enumerate(folds))}
        self.splits = {fold: dict(zip(clips["clip_id"], split, strict=True)) for fold, split in of_rows.items()}
        self.inputs = {member: self._inputs(member) for member in grid}

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the inputs of all SAEs."""
        return fingerprint(list(self.inputs.values()))

    def ensure(self) -> set[str]:
        """Train the SAEs that are missing or outdated; resume interrupted trainings.

        Return the warnings about the rows that were reported before training.
        """
        reported = set[str]()
        missing = [m for m, inputs in self.inputs.items() if not is_trained(self.folder.saes / m.sae_id, inputs)]
        if not missing:
            return reported
        if not self.run.executor.in_process:
            self._train_remotely(missing)
            return reported
        banks = _group_by_rows(missing)
        for rows, members in banks:  # check all banks before the first is trained
            fit_in_memory(*self.rows(*rows), self._bank_members(members))
        title = f"training {count(len(missing), 'dictionary', 'dictionaries')}"
        with task(self.progress, title, len(missing), "dictionaries"), closing(open_logger(self.folder.root)) as log:
            for rows, members in banks:
                bank = Bank(*self.rows(*rows), self._bank_members(members), device=self.run.config.device)
                for warning in bank.warnings():
                    reported.add(warning)
                    fold = "" if rows.fold is None else f", fold {rows.fold}"
                    self.progress.message(f"  warning: layer {rows.layer}, {rows.pooling}{fold}: {warning}")
                train_bank(bank, self.progress, log)
        return reported

    def _train_remotely(self, missing: Sequence[GridMember]) -> None:
        """Train one bank per layer, pooling and fold on the workers of the executor."""
        banks = [members for _, members in _group_by_rows(missing)]
        with task(self.progress, f"training {count(len(banks), 'bank')}", len(banks), "banks"):
            for index, _ in run_tasks(self.run.executor, partial(_TrainBank, self.run, self.store), banks):
                self.progress.advance(1, note=banks[index][0].sae_id)

    def _inputs(self, member: GridMember) -> str:
        config = self._train_config(member).model_dump(mode="json")
        code = code_version(*TRAINING_CODE)
        clips = {split: self._clips(split, member.fold) for split in ("train", "valid")}
        return fingerprint(self.store.content_id(member.layer), clips, member.sae_id, member.sparsity, config, code)

    def _clips(self, split: str, fold: int | None) -> list[str]:
        split_of = self.splits[fold]
        return [clip for clip in self.store.clip_ids if split_of[clip] == split]

    def _train_config(self, member: GridMember) -> TrainConfig:
        return self.run.config.train.train_config(member.preset)

    def _card(self, member: GridMember) -> dict[str, Any]:
        return {
            "sae_id": member.sae_id,
            "encoder": self.store.manifest["encoder"],
            "layer": member.layer,
            "pooling": member.pooling,
            "preset": member.preset,
            "config": self._train_config(member).model_dump(mode="json"),
            "latents": member.latents,
            "k": member.k,
            "sparsity": member.sparsity,
            "seed": member.seed,
            **({} if member.fold is None else {"fold": member.fold}),
            "inputs": self.inputs[member],
            "activations": self.store.fingerprint,
        }

    def rows(self, layer: int, pooling: Pooling, fold: int | None = None) -> tuple[RowSource, RowSource]:
        """Return the training and validation rows of a layer, pooled or not, of the one split or of a fold."""

        def rows_of(split: str) -> RowSource:
            clips = self._clips(split, fold)
            if pooling == "encode_then_pool":
                return self.store.rows(layer, clips)
            labels = [f'clip "{clip_id}" at layer {layer}' for clip_id in clips]
            return ArrayRows(np.ascontiguousarray(self.store.pooled(layer, clips)), labels)

        return rows_of("train"), rows_of("valid")

    def _bank_members(self, members: Sequence[GridMember]) -> list[BankMember]:
        return [
            BankMember(
                name=member.sae_id,
                latents=member.latents,
                k=member.k,
                seed=member.seed,
                preset=self._train_config(member),
                folder=self.folder.saes / member.sae_id,
                card=self._card(member),
            )
            for member in members
        ]


class _TrainBank:
    """Worker function that trains one bank."""

    def __init__(self, run: Context, store: ActivationStore) -> None:
        self._run, self._store = run, store

    def __call__(self, members: Sequence[GridMember]) -> int:
        GridTraining(self._run, self._store, members).ensure()
        return len(members)


class TrainingSummary(TypedDict):
    """Entries of a card's `training` that the terminal prints."""

    valid_explained_variance: float
    valid_dead_fraction: float


class TrainedCard(TypedDict):
    """Entries of an SAE's card that a run relies on."""

    sae_id: str
    inputs: str
    sha256: str
    model: dict[str, Any]
    versions: dict[str, str]
    training: TrainingSummary


def read_trained_card(folder: Path) -> TrainedCard:
    """Read the card of a trained SAE; raise `IncompleteArtifact` or `DamagedArtifact`."""
    return read_json_as(folder / CARD, TrainedCard)


def is_trained(folder: Path, inputs: str) -> bool:
    """Return whether a folder holds the SAE of these inputs with undamaged weights."""
    try:
        card = read_trained_card(folder)
    except ArtifactError:
        return False
    return card["inputs"] == inputs and is_whole(folder, WEIGHTS, card["sha256"])


class Unlearned(NamedTuple):
    """SAEs that are still their start: what they are, why, and their names."""

    label: str
    reason: str
    names: Sequence[str]


def unlearned(cards: Mapping[str, Mapping[str, Any]]) -> list[Unlearned]:
    """Return the SAEs that training did not improve or hardly changed, by label, as far as cards record it.

    >>> axes = {"best_step": 4, "start": "principal axes", "unchanged_share": 0.98}
    >>> (found,) = unlearned({"a": {"training": axes}, "b": {"training": {**axes, "unchanged_share": 0.01}}})
    >>> found.label, found.names
    ('principal axes, hardly changed', ['a'])
    >>> unlearned({"a": {"training": {"best_step": 0}, "config": {"init": "principal"}}})[0].label
    'principal axes, not learned'
    """
    shares: dict[str, dict[str, float]] = {}
    for name, card in cards.items():
        training = card.get("training") or {}
        share, best = training.get("unchanged_share"), training.get("best_step")
        start = training.get("start") or (
            AXES_START if (card.get("config") or {}).get("init") == "principal" else OTHER_START
        )
        if best == 0:
            shares.setdefault(f"{start}, not learned", {})[name] = 1.0
        elif share is not None and share >= UNCHANGED_SHARE:
            shares.setdefault(f"{start}, hardly changed", {})[name] = share
    return [Unlearned(label, _reason(label, list(found.values())), list(found)) for label, found in shares.items()]


def _reason(label: str, shares: Sequence[float]) -> str:
    if label.endswith("not learned"):
        return "no step improved on the start for unseen groups"
    least = "at least " if len(set(shares)) > 1 else ""
    return (
        f"{least}{percent(min(shares), 0)} of the active atoms have a cosine of at least {UNCHANGED_COSINE} with their "
        "start"
    )


class _Rows(NamedTuple):
    """Rows that the members of one bank are trained on."""

    layer: int
    pooling: Pooling
    fold: int | None


def _group_by_rows(missing: Sequence[GridMember]) -> list[tuple[_Rows, list[GridMember]]]:
    grouped: dict[_Rows, list[GridMember]] = {}
    for member in missing:
        grouped.setdefault(_Rows(member.layer, member.pooling, member.fold), []).append(member)
    return list(grouped.items())


def train_bank(bank: Bank, progress: ProgressReporter, log: MetricLogger | None = None) -> None:
    """Train all members of a bank; report the progress of each, and log every step."""
    reported = dict.fromkeys((member.name for member in bank.members), 0.0)
    # states that another configuration left cannot be resumed
    for name, step, trained in bank.train(save_every_s=SAVE_EVERY_S, discard_stale=True):
        share = 1.0 if step is None or trained is not None else step.step / step.steps
        progress.advance(share - reported[name], note=name)
        reported[name] = share
        if log is not None and step is not None:
            log(name, step)
