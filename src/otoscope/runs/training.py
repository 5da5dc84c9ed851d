"""The training stage: every dictionary of the grid, each continued where it was.

The grid of dictionaries that a configuration asks for.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_json, write_json
from otoscope.config import Pooling, RunConfig
from otoscope.errors import ArtifactError, UnknownLayer
from otoscope.formatting import count
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.runs.folder import load_corpus
from otoscope.runs.progress import ProgressReporter, task
from otoscope.sae.bank import Bank, BankMember, fit_in_memory
from otoscope.sae.checkpoint import CARD, WEIGHTS
from otoscope.sae.config import TrainConfig
from otoscope.sae.data import ArrayRows, RowSource
from otoscope.sae.loggers import MetricLogger, open_logger
from otoscope.sae.sparsifiers.base import k_from_sparsity


@dataclass(frozen=True)
class GridMember:
    """One dictionary of the grid."""

    layer: int
    pooling: Pooling
    preset: str
    latents: int
    sparsity: float
    seed: int
    untrained: bool = False
    """Whether it is a dictionary of the encoder with fresh weights."""

    @property
    def k(self) -> int:
        """Latents that may be active in a row."""
        return k_from_sparsity(self.latents, self.sparsity)

    @property
    def sae_id(self) -> str:
        """Name of the dictionary, and of its folder."""
        order = {"encode_then_pool": "frames", "pool_then_encode": "pooled"}[self.pooling]
        of = "untrained-" if self.untrained else ""
        return f"{of}layer{self.layer:02d}-{order}-{self.preset}-m{self.latents}-k{self.k}-seed{self.seed}"

    def columns(self) -> dict[str, Any]:
        """Return the columns of a record that say which dictionary it is of."""
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
    """Return every dictionary of a run, in the order in which they are trained.

    Raises `UnknownLayer` when `train.layers` names one that is not extracted, `ConfigError` when a
    sparsity leaves no latent.
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


SAVE_EVERY_S = 60.0
"""A killed run loses at most this much training."""


def train_all(run: Context) -> None:
    """Train every dictionary of the grid that is not there yet; write `saes/ID/` each, and `saes/index.json`."""
    folder, store = run.folder, ActivationStore.open(run.folder.activations)
    grid = training_grid(run.config, list(store.layers))
    made = GridTraining(run, store, grid)
    index = folder.saes / "index.json"
    files = [folder.saes / member.sae_id / name for member in grid for name in (CARD, WEIGHTS)]

    def work() -> None:
        made.ensure()
        write_json(index, {"saes": [member.sae_id for member in grid]})
        run.progress.message(f"  {_came_to([read_json(folder.saes / member.sae_id / CARD) for member in grid])}")

    run_stage(folder, "train", inputs=made.fingerprint, outputs=[index, *files], work=work, progress=run.progress)


def _came_to(cards: Sequence[Mapping[str, Any]]) -> str:
    """Say what the dictionaries explain of the validation rows, and how many of their latents are silent there."""
    explained = sorted(card["training"]["valid_explained_variance"] for card in cards)
    span = " to ".join(dict.fromkeys(f"{value:.1%}" for value in (explained[0], explained[-1])))
    silent = {card["training"]["valid_dead_fraction"]: str(card["sae_id"]) for card in cards}
    most = max(silent)
    where = f", in {silent[most]}" if len(cards) > 1 and most > 0 else ""
    return f"validation groups: {span} of the variance explained, at most {most:.1%} of the latents silent{where}"


class GridTraining:
    """Dictionaries of one store: which are wanted, what each rests on, and the training of those that are missing."""

    def __init__(self, run: Context, store: ActivationStore, wanted: Sequence[GridMember]) -> None:
        self.run, self.folder, self.watch, self.store = run, run.folder, run.progress, store
        split_of = dict(load_corpus(run.folder).clips.select("clip_id", "split").iter_rows())
        self.clips = {side: [c for c in store.clip_ids if split_of[c] == side] for side in ("train", "valid")}
        self.inputs = {member: self._inputs(member) for member in wanted}

    @property
    def fingerprint(self) -> str:
        """What all of them rest on."""
        return fingerprint(list(self.inputs.values()))

    def ensure(self) -> None:
        """Train those that are not there yet, each continued where it was."""
        missing = [m for m, inputs in self.inputs.items() if not is_trained(self.folder.saes / m.sae_id, inputs)]
        if not missing:
            return
        if not self.run.executor.in_process:
            self._hand_out(missing)
            return
        banks = _by_material(missing)
        for (layer, pooling), wanted in banks:  # whatever one of them cannot do is told before the first is trained
            fit_in_memory(*self._rows(layer, pooling), self._bank_members(wanted))
        title = f"training {count(len(missing), 'dictionary', 'dictionaries')}"
        with task(self.watch, title, len(missing), "dictionaries"), closing(open_logger(self.folder.root)) as log:
            for (layer, pooling), wanted in banks:
                bank = Bank(*self._rows(layer, pooling), self._bank_members(wanted), device=self.run.config.device)
                for warning in bank.warnings():
                    self.watch.message(f"layer {layer}, {pooling}: {warning}")
                _train(bank, self.watch, log)

    def _hand_out(self, missing: Sequence[GridMember]) -> None:
        """Have a bank trained for each layer and order of pooling, each on a machine of its own."""
        banks = [wanted for _, wanted in _by_material(missing)]
        with task(self.watch, f"training {count(len(banks), 'bank')}", len(banks), "banks"):
            for place, _ in results(self.run.executor, partial(_Trainer, self.run, self.store), banks):
                self.watch.advance(1, note=banks[place][0].sae_id)

    def _inputs(self, member: GridMember) -> str:
        config = self._train_config(member).model_dump(mode="json")
        return fingerprint(self.store.content_id(member.layer), self.clips, member.sae_id, member.sparsity, config)

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
            "inputs": self.inputs[member],
            "activations": self.store.fingerprint,
        }

    def _rows(self, layer: int, pooling: Pooling) -> tuple[RowSource, RowSource]:
        """Return the rows to train on and those to validate by."""

        def rows_of(side: str) -> RowSource:
            clips = self.clips[side]
            if pooling == "encode_then_pool":
                return self.store.rows(layer, clips)
            labels = [f'clip "{clip_id}" at layer {layer}' for clip_id in clips]
            return ArrayRows(np.ascontiguousarray(self.store.pooled(layer, clips)), labels)

        return rows_of("train"), rows_of("valid")

    def _bank_members(self, wanted: Sequence[GridMember]) -> list[BankMember]:
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
            for member in wanted
        ]


class _Trainer:
    """Trains banks of dictionaries of a run."""

    def __init__(self, run: Context, store: ActivationStore) -> None:
        self._run, self._store = run, store

    def __call__(self, wanted: Sequence[GridMember]) -> int:
        GridTraining(self._run, self._store, wanted).ensure()
        return len(wanted)


def is_trained(folder: Path, inputs: str) -> bool:
    """Whether a folder holds the dictionary that these inputs give, with the weights of its card."""
    try:
        card = read_json(folder / CARD)
    except ArtifactError:
        return False
    weights = folder / WEIGHTS
    return card.get("inputs") == inputs and weights.is_file() and digest(weights) == card.get("sha256")


def _by_material(missing: Sequence[GridMember]) -> list[tuple[tuple[int, Pooling], list[GridMember]]]:
    grouped: dict[tuple[int, Pooling], list[GridMember]] = {}
    for member in missing:
        grouped.setdefault((member.layer, member.pooling), []).append(member)
    return list(grouped.items())


def _train(bank: Bank, watch: ProgressReporter, log: MetricLogger) -> None:
    shown = dict.fromkeys((member.name for member in bank.members), 0.0)
    # what an earlier run with other settings left half done is of no use to this one
    for name, step, trained in bank.train(save_every_s=SAVE_EVERY_S, discard_stale=True):
        now = 1.0 if step is None or trained is not None else step.step / step.steps
        watch.advance(now - shown[name], note=name)
        shown[name] = now
        if step is not None:
            log(name, step)
