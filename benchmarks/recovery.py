"""Planted features recovered by the default preset, its two starts, and the TopK trainers of other libraries.

    python benchmarks/recovery.py            # one seed: about 7 minutes of one core; last line is JSON
    python benchmarks/recovery.py --seeds 5  # as in docs/methods.md: 35 minutes
    python benchmarks/recovery.py --widths 192 --kinds even  # time grows with the square of the width
    python benchmarks/recovery.py --methods default "random start"  # without the peers' environment

The first run also builds the peers' environment in about two minutes, most of them for the download.

Rows are sums of `width / 16` features out of `3 * width` on average, in random directions and with noise, read by
`4 * width` latents. Features are active evenly, by Zipf's law, in correlated groups, or in a hierarchy: three children
fire with their parent only. k is a multiple of the mean number of active features. A feature is recovered if an atom
has a cosine of 0.9 with it. All methods see the same rows in the same order. Cells measured before are reused
(`--fresh` measures again).
"""

import argparse
import json
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import describe_machine, machine_line
from train import ROOT, build_environment

from otoscope.artifacts import fingerprint
from otoscope.runs.code_version import code_version
from otoscope.sae.config import DEFAULT, TrainConfig
from otoscope.sae.data import Shuffle
from otoscope.sae.plan import Plan
from otoscope.sae.train import fit
from otoscope.sae.validation import mean_atom_cosine

CACHE = ROOT / ".bench" / "recovery"
KINDS = ("even", "zipf", "correlated", "hierarchical")
ROWS, VALID_ROWS, TEST_ROWS = 40_000, 4_000, 4_000
NOISE = 0.05
GROUP = 16
"""Features per correlated group."""
RECOVERED = 0.9
RATES = (1.0, 10.0)
"""Factors on a peer's learning rate, which is meant for 100,000 steps; the validation rows choose."""


class Cell(NamedTuple):
    """One training: kind of features, width, k, method and seed."""

    kind: str
    width: int
    k: int
    method: str
    seed: int


class Planted(NamedTuple):
    """Directions of the features, and rows."""

    features: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


class Trained(NamedTuple):
    """Atoms of a dictionary and its reconstruction of the test rows."""

    atoms: torch.Tensor
    rebuilt: torch.Tensor


OWN: dict[str, dict[str, Any]] = {
    "default": {},
    "random start": {"init": "tied", "k_shares": (1.0,)},
    "axes start": {"axes_rows_per_latent": None, "k_shares": (1.0,)},
}
"""Changes of the default preset."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--widths", nargs="+", type=int, default=[96])
    parser.add_argument(
        "--multiples", nargs="+", type=float, default=[0.5, 1.0, 3.4, 10.0], help="k over active features"
    )
    parser.add_argument("--methods", nargs="+", choices=[*OWN, *PEERS], default=[*OWN, *PEERS])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="ignore cached results")
    options = parser.parse_args()
    if set(options.methods) & set(PEERS):
        import_peers()
    print(machine_line(describe_machine()))
    cells: list[dict[str, Any]] = []
    for kind, width, multiple in product(options.kinds, options.widths, options.multiples):
        k = max(round(multiple * active_features(width)), 1)
        for method in options.methods:
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            rows = [measure(Cell(kind, width, k, method, seed), options.fresh) for seed in seeds]
            cells += rows
            print(describe(rows), flush=True)
    print("\n".join(["", *verdicts(cells), ""]))
    print(json.dumps({"bench": "recovery", "machine": describe_machine(), "rows": cells}))


def active_features(width: int) -> int:
    return width // 16


@cache
def plant(kind: str, width: int, seed: int) -> Planted:
    """Return the features of a seed and disjoint draws of rows."""
    rng = np.random.default_rng((seed, width, KINDS.index(kind)))
    number = 3 * width
    features = rng.normal(size=(number, width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.empty((ROWS + VALID_ROWS + TEST_ROWS, width), np.float32)
    for part in np.array_split(rows, 20):
        fires = draw_activity(kind, len(part), number, active_features(width), rng)
        strengths = fires * rng.uniform(0.5, 1.5, fires.shape)
        part[:] = strengths @ features + NOISE * rng.normal(size=part.shape)
    return Planted(features.astype(np.float32), *np.split(rows, [ROWS, ROWS + VALID_ROWS]))


def draw_activity(kind: str, rows: int, features: int, active: int, rng: np.random.Generator) -> np.ndarray:
    """Return which features are active in each row, `active` of them on average."""
    if kind == "hierarchical":
        parents = rng.random((rows, features // 4, 1)) < active / (features // 4) / 1.75
        children = (rng.random((rows, features // 4, 3)) < 0.25) & parents
        return np.concatenate([parents, children], axis=2).reshape(rows, features)
    if kind == "correlated":  # a group is in use in 15 % of the rows, and its features then fire ten times as often
        uses = np.where(rng.random((rows, features // GROUP)) < 0.15, 1.0, 0.1) / 0.235
        rates = np.repeat(uses, GROUP, axis=1) * active / features
    else:
        weights = 1 / (np.arange(features) + 10.0) if kind == "zipf" else np.ones(features)
        rates = np.minimum(active * weights / weights.sum(), 0.5)
    return rng.random((rows, features)) < rates


def measure(cell: Cell, fresh: bool) -> dict[str, Any]:
    """Return the scores of a training, from the cache if the same code has run it before."""
    changes = OWN.get(cell.method)
    config = None if changes is None else DEFAULT.model_copy(update=changes)
    settings = None if config is None else (config.model_dump(mode="json"), code_version("otoscope.sae"))
    path = CACHE / f"{fingerprint(list(cell), settings, ROWS)}.json"
    if path.is_file() and not fresh:
        return json.loads(path.read_text())
    planted = plant(cell.kind, cell.width, cell.seed)
    trained = train_own(planted, cell, config) if config else PEERS[cell.method](planted, cell)
    atoms = torch.nn.functional.normalize(trained.atoms.float(), dim=1)
    best = (torch.from_numpy(planted.features) @ atoms.T).amax(dim=1)
    test = torch.from_numpy(planted.test)
    error = (test - trained.rebuilt).square().sum() / (
        test - torch.from_numpy(planted.train.mean(axis=0))
    ).square().sum()
    row = {
        **cell._asdict(),
        "recovered": round((best > RECOVERED).float().mean().item(), 4),
        "mean_max_cosine": round(best.mean().item(), 4),
        "explained_variance": round(1 - error.item(), 4),
        "mean_atom_cosine": round(mean_atom_cosine(trained.atoms), 4),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row))
    return row


def describe(rows: list[dict[str, Any]]) -> str:
    mean, error = mean_and_error([row["recovered"] for row in rows])
    others = {key: np.mean([row[key] for row in rows]) for key in ("explained_variance", "mean_atom_cosine")}
    return (
        f"{rows[0]['kind']:13s} width {rows[0]['width']:4d}  k {rows[0]['k']:4d}  {rows[0]['method']:20s} "
        f"recovered {mean:.3f} +- {error:.3f}  explained {others['explained_variance']:.3f}  "
        f"atom cosine {others['mean_atom_cosine']:.4f}"
    )


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard error; the error of one value is 0."""
    found = np.array(list(values))
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0


def verdicts(cells: list[dict[str, Any]]) -> list[str]:
    """Compare the default with the best other method of every cell: within one standard error, or how far below."""
    lines, grid = [], dict.fromkeys((row["kind"], row["width"], row["k"]) for row in cells)
    for kind, width, k in grid:
        here = [row for row in cells if (row["kind"], row["width"], row["k"]) == (kind, width, k)]
        scores = {
            row["method"]: mean_and_error(r["recovered"] for r in here if r["method"] == row["method"]) for row in here
        }
        default, error = scores.pop("default", (np.nan, np.nan))
        if scores and not np.isnan(default):
            best = max(scores, key=lambda name: scores[name][0])
            gap, either = scores[best][0] - default, float(np.hypot(error, scores[best][1]))
            verdict = "at least as much as" if gap <= either else f"{100 * gap:.1f} points less than"
            lines.append(
                f"{kind}, width {width}, k {k}: {verdict} the best other method ({best}, {scores[best][0]:.3f})"
            )
    return lines


def train_own(planted: Planted, cell: Cell, config: TrainConfig) -> Trained:
    sae = fit(planted.train, planted.valid, config, latents=4 * cell.width, k=cell.k, seed=cell.seed).sae
    return Trained(sae.decoder.detach(), sae(torch.from_numpy(planted.test)).reconstruction)


def import_peers() -> None:
    """Add the peers' environment to the end of the path, so that only they come from there."""
    site = next(build_environment().parent.parent.glob("lib/python*/site-packages"))
    sys.path.append(str(site))
    absent: Any = types.ModuleType("nnsight")
    absent.LanguageModel = object  # imported for an activation buffer, which is not used here
    sys.modules.setdefault("nnsight", absent)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


Peer = tuple[Callable[[int, torch.Tensor], Any], Callable[[torch.Tensor], torch.Tensor], Callable[[], torch.Tensor]]
"""A peer's step, its reconstruction of rows, and its atoms."""


def train_peer(make: Callable[[Cell, Plan, float], Peer]) -> Callable[[Planted, Cell], Trained]:
    """Return a function that trains a peer on the batches of the default preset, at the better of two learning rates.

    Rows come at a mean square norm of 1 about their mean, as the peers' own loops have them.
    """

    def train(planted: Planted, cell: Cell) -> Trained:
        plan = Plan.derive(DEFAULT, height=ROWS, latents=4 * cell.width, k=cell.k, seed=cell.seed)
        mean = planted.train.mean(axis=0)
        norm = float(np.sqrt(np.square(planted.train - mean).sum(axis=1).mean()))
        rows, valid, test = (torch.from_numpy((part - mean) / norm) for part in planted[1:])
        order: Shuffle = plan.shuffle
        found: list[tuple[float, Peer]] = []
        for factor in RATES:
            torch.manual_seed(cell.seed)
            step, rebuild, atoms = peer = make(cell, plan, factor)
            for i in range(plan.steps):
                step(i, rows[order.indices(i)])
            with torch.no_grad():
                found.append(((rebuild(valid) - valid).square().mean().item(), peer))
        _, rebuild, atoms = min(found, key=lambda one: one[0])[1]
        with torch.no_grad():
            return Trained(atoms(), rebuild(test) * norm + torch.from_numpy(mean))

    return train


def dictionary_learning(cell: Cell, plan: Plan, factor: float) -> Peer:
    """Warm-up and decay are its defaults' shares of a run that short."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    latents = 4 * cell.width
    trainer = TopKTrainer(
        steps=plan.steps, activation_dim=cell.width, dict_size=latents, k=cell.k, layer=0, lm_name="none",
        device="cpu", seed=cell.seed, lr=factor * 2e-4 / (latents / 2**14) ** 0.5,
        warmup_steps=plan.steps // 20, decay_start=int(0.8 * plan.steps), threshold_start_step=plan.steps // 2,
    )  # fmt: skip

    def atoms() -> torch.Tensor:
        return trainer.ae.decoder.weight.detach().T.contiguous()

    return trainer.update, trainer.ae, atoms


def sae_lens(cell: Cell, plan: Plan, factor: float) -> Peer:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=cell.width, d_sae=4 * cell.width, k=cell.k))
    config = SAETrainerConfig(
        total_training_samples=plan.steps * plan.shuffle.batch, train_batch_size_samples=plan.shuffle.batch,
        lr=factor * 3e-4, lr_end=factor * 3e-5, lr_decay_steps=plan.steps // 5, lr_warm_up_steps=plan.steps // 20,
    )  # fmt: skip
    trainer = SAETrainer(config, sae, iter(()))

    def step(_: int, batch: torch.Tensor) -> None:
        trainer.step(batch)
        trainer.n_training_steps += 1

    def atoms() -> torch.Tensor:
        return sae.W_dec.detach()

    return step, sae, atoms


PEERS = {"dictionary-learning": train_peer(dictionary_learning), "SAELens": train_peer(sae_lens)}


if __name__ == "__main__":
    main()
