"""The training stage: every dictionary of the grid, each continued where it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_json, write_json
from otoscope.config import Pooling
from otoscope.errors import ArtifactError, DamagedArtifact, StaleArtifact
from otoscope.pipeline.context import Context
from otoscope.pipeline.grid import Member, members
from otoscope.pipeline.sound import load_corpus
from otoscope.pipeline.stage import run_stage
from otoscope.pipeline.watch import Watch, task
from otoscope.report.words import count
from otoscope.sae.checkpoint import CARD, WEIGHTS
from otoscope.sae.moments import Moments, measure
from otoscope.sae.presets import find_preset
from otoscope.sae.progress import clear_progress, train_into
from otoscope.sae.rows import ArrayRows, Rows
from otoscope.sae.train import Step, Training, begin

SAVE_EVERY_S = 60.0
"""A killed run loses at most this much training."""


@dataclass(frozen=True)
class Material:
    """What the dictionaries of one layer and pooling are trained on."""

    rows: Rows
    valid_rows: Rows
    moments: Moments


def train_all(run: Context) -> None:
    """Train every dictionary of the grid that is not there yet; write `saes/ID/` each, and `saes/index.json`."""
    config, folder, watch = run.config, run.folder, run.watch
    store = ActivationStore.open(folder.activations)
    grid = members(config, list(store.layers))
    split_of = dict(load_corpus(folder).clips.select("clip_id", "split").iter_rows())
    clips = {side: [c for c in store.clip_ids if split_of[c] == side] for side in ("train", "valid")}
    inputs = {
        member: fingerprint(
            store.fingerprint, clips, member.sae_id, member.sparsity, find_preset(member.preset).model_dump(mode="json")
        )
        for member in grid
    }
    index = folder.saes / "index.json"
    files = [folder.saes / member.sae_id / name for member in grid for name in (CARD, WEIGHTS)]

    def work() -> None:
        missing = [member for member in grid if not is_whole(folder.saes / member.sae_id, inputs[member])]
        title = f"training {count(len(missing), 'dictionary', 'dictionaries')}"
        with task(watch, title, len(missing), "dictionaries"):
            for (layer, pooling), wanted in _by_material(missing):
                material = _material(store, clips, layer=layer, pooling=pooling)
                for member in wanted:
                    card = _card(member, store, inputs[member])
                    _train_one(folder.saes / member.sae_id, member, material, card, watch)
        write_json(index, {"saes": [member.sae_id for member in grid]})

    inputs_of_all = fingerprint(list(inputs.values()))
    run_stage(folder, "train", inputs=inputs_of_all, outputs=[index, *files], work=work, watch=watch)


def is_whole(folder: Path, inputs: str) -> bool:
    """Whether a folder holds the dictionary that these inputs give, with the weights of its card."""
    try:
        card = read_json(folder / CARD)
    except ArtifactError:
        return False
    weights = folder / WEIGHTS
    return card.get("inputs") == inputs and weights.is_file() and digest(weights) == card.get("sha256")


def _by_material(missing: Sequence[Member]) -> list[tuple[tuple[int, Pooling], list[Member]]]:
    grouped: dict[tuple[int, Pooling], list[Member]] = {}
    for member in missing:
        grouped.setdefault((member.layer, member.pooling), []).append(member)
    return list(grouped.items())


def _material(store: ActivationStore, clips: dict[str, list[str]], *, layer: int, pooling: Pooling) -> Material:
    def rows_of(side: str) -> Rows:
        if pooling == "encode_then_pool":
            return store.rows(layer, clips[side])
        return ArrayRows(np.ascontiguousarray(store.pooled(layer, clips[side])))

    rows = rows_of("train")
    return Material(rows, rows_of("valid"), measure(rows))


def _train_one(folder: Path, member: Member, material: Material, card: dict[str, Any], watch: Watch) -> None:
    shown = 0.0

    def on_step(step: Step) -> None:
        nonlocal shown
        now = step.step / step.steps
        watch.advance(now - shown, note=member.sae_id)
        shown = now

    run = _begin(member, material)
    try:
        train_into(folder, run, card, save_every_s=SAVE_EVERY_S, on_step=on_step)
    except (StaleArtifact, DamagedArtifact):
        # what an earlier run with other settings left half done is of no use to this one
        clear_progress(folder)
        train_into(folder, _begin(member, material), card, save_every_s=SAVE_EVERY_S, on_step=on_step)


def _begin(member: Member, material: Material) -> Training:
    return begin(
        material.rows,
        material.valid_rows,
        member.preset,
        latents=member.latents,
        k=member.k,
        seed=member.seed,
        moments=material.moments,
    )


def _card(member: Member, store: ActivationStore, inputs: str) -> dict[str, Any]:
    return {
        "sae_id": member.sae_id,
        "encoder": store.card["encoder"],
        "layer": member.layer,
        "pooling": member.pooling,
        "preset": member.preset,
        "recipe": find_preset(member.preset).model_dump(mode="json"),
        "latents": member.latents,
        "k": member.k,
        "sparsity": member.sparsity,
        "seed": member.seed,
        "inputs": inputs,
        "activations": store.fingerprint,
    }
