"""Reconstruction of unseen groups by every kind of SAE, compared with PCA, the study's preset and a peer.

    python benchmarks/quality.py                 # extracts what it needs, trains, scores; last line is JSON
    python benchmarks/quality.py --run runs/fsdd # activations of an existing run folder (repeatable)

Every SAE is trained on rows of the training groups, its best state is chosen on the validation groups, and it is
scored on the test groups: fraction of variance unexplained (FVU, relative to the mean of the training rows), active
latents per row, latents that no test row (or no training row) activates, balanced accuracy of a probe on its 8 best
latents, and the similarity of atoms between seeds. Results measured before are reused (`--fresh` measures again).
"""

import argparse
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from train import ROOT, build_environment

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.metrics.sparse_regression import SparseProbeSettings, sparse_probe
from otoscope.metrics.stability import mean_max_cosine
from otoscope.sae.config import DEFAULT, MARIOTTE2025, TrainConfig
from otoscope.sae.data import ArrayRows, RowSource, Shuffle, cache_rows
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.plan import Plan
from otoscope.sae.sparsifiers.base import k_from_sparsity
from otoscope.sae.train import fit

CACHE = ROOT / ".bench" / "quality"
LATENTS = 2048
SPARSITIES = (0.75, 0.80, 0.85, 0.90, 0.95, 0.99)
SPARSEST = 0.99
PROBED = 8
AT_ONCE = 4096
HELD_BYTES = 1 << 30

FREE = {"unit_norm": False, "init": "points", "dictionary": "archetypal"}
HALVES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "TopK, random start": {"init": "tied"},
    "BatchTopK": {"sparsifier": "batch_topk"},
    "ReLU, L1": {"sparsifier": "relu", "init": "tied"},
    "JumpReLU": {"sparsifier": "jumprelu", "init": "tied"},
    "Gated": {"sparsifier": "gated", "init": "tied"},
    "Matryoshka, TopK": {"prefixes": HALVES},
    "Matryoshka, BatchTopK": {"prefixes": HALVES, "sparsifier": "batch_topk"},
    "archetypal": FREE,
    "temporal": {"temporal": 0.01},
}
"""Settings that differ from the default preset; all are trained on the same rows for at most as many steps."""


BEATEN = ("default", "PCA", "study", "dictionary-learning TopK", "dictionary-learning BatchTopK")
"""The default and its competitors."""


class Case(NamedTuple):
    """One line of the table: method, rows and number of seeds."""

    corpus: str
    layer: int
    rows: str
    method: str
    sparsity: float
    seeds: int

    @property
    def label(self) -> str:
        return f"{self.corpus} {self.rows}, layer {self.layer}, {self.method}, {100 * self.sparsity:.0f} %"


class Seen(NamedTuple):
    """Codes (if the method has any) and reconstructions of rows."""

    codes: torch.Tensor | None
    rebuilt: torch.Tensor


class Fitted(NamedTuple):
    """A trained method: its encoding function, atoms and training summary."""

    see: Callable[[torch.Tensor], Seen]
    atoms: np.ndarray
    steps: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", type=Path, help="run folder with activations; repeatable")
    parser.add_argument("--rows", type=int, default=16_000, help="maximum number of training frames (seeded sample)")
    parser.add_argument("--layers", type=int, nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, default=5, help="for the architectures, on pooled clips")
    parser.add_argument("--frame-seeds", type=int, default=2, help="for the architectures, on frames")
    parser.add_argument("--fresh", action="store_true", help="ignore cached results")
    parser.add_argument(
        "--sparsest", action="store_true", help="leave out the sparsities below 99 %%, and the architectures"
    )
    parser.add_argument("--only", nargs="+", help="names of methods")
    options = parser.parse_args()
    site = next(build_environment().parent.parent.glob("lib/python*/site-packages"))
    sys.path.append(str(site))  # last: the peer alone comes from there
    folders = options.run or list(recorded())
    rows: list[dict[str, Any]] = []
    for folder in folders:
        corpus = Material(folder, options.rows)
        for case in cases(corpus, options):
            rows.append(measured(corpus, case, fresh=options.fresh))
            print(line(rows[-1]), flush=True)
    print("\n".join(("", *summary(rows), "")))
    print(json.dumps({"bench": "quality", "rows": rows}))


def recorded() -> Iterator[Path]:
    """Yield run folders, extracted first if needed: sung voices, and FSDD if the environment variable is set."""
    sung = CACHE / "sung.yaml"
    sung.parent.mkdir(parents=True, exist_ok=True)
    sung.write_text("name: sung\nmodel: starter\ncorpus: {kind: synth}\n")
    wanted = [(sung, CACHE / "sung", [])]
    if "FSDD" in os.environ:
        wanted.insert(0, (ROOT / "examples" / "fsdd.yaml", CACHE / "fsdd", ["--set", "corpus.takes=15"]))
    else:
        print("FSDD is not set: skipping real speech (see examples/fsdd.yaml)", file=sys.stderr)
    for config, folder, extra in wanted:
        command = [sys.executable, "-m", "otoscope", "extract", str(config), "--out", str(folder), *extra]
        subprocess.run(command, check=True, stdout=sys.stderr)
        yield folder


def cases(corpus: "Material", options: argparse.Namespace) -> list[Case]:
    """Return the lines: the default and its competitors in every layer, then every architecture in the middle layer."""
    layers = options.layers or corpus.store.layers
    middle = layers[len(layers) // 2]
    found = [
        Case(corpus.name, layer, kind, method, SPARSEST, 1)
        for kind, layer, method in product(("pooled", "frames"), layers, BEATEN)
    ]
    if options.sparsest:
        return [case for case in found if not options.only or case.method in options.only]
    found += [
        Case(corpus.name, layer, "pooled", method, sparsity, 1)
        for layer, sparsity, method in product(layers, SPARSITIES[:-1], ("default", "PCA", "study"))
    ]
    found += [
        Case(corpus.name, middle, kind, method, SPARSEST, seeds)
        for kind, seeds in (("pooled", options.seeds), ("frames", options.frame_seeds))
        for method in ("default, seeds", *ARCHITECTURES)
        if kind == "frames" or method != "temporal"
    ]
    found += [
        Case(corpus.name, middle, "frames", method, sparsity, 1)
        for sparsity, method in product(SPARSITIES[:-1], ("default", "PCA"))
    ]
    return [case for case in found if not options.only or case.method in options.only]


def measured(corpus: "Material", case: Case, *, fresh: bool) -> dict[str, Any]:
    """Return the line of a case, from the cache if it was measured before on the same activations."""
    recipe = recipe_of(case.method)
    identity = fingerprint(
        corpus.store.fingerprint, corpus.splits, corpus.most, list(case), recipe.model_dump(mode="json")
    )
    path = CACHE / "rows" / f"{identity}.json"
    if path.is_file() and not fresh:
        return json.loads(path.read_text())
    row = score(corpus, case, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row))
    return row


def score(corpus: "Material", case: Case, recipe: TrainConfig) -> dict[str, Any]:
    """Train and score on the test groups; means over seeds."""
    data = corpus.rows(case.layer, case.rows)
    k = k_from_sparsity(LATENTS, case.sparsity)
    began = time.perf_counter()
    fitted = [make(case.method)(data, recipe, k, seed) for seed in range(case.seeds)]
    seconds = (time.perf_counter() - began) / case.seeds
    found = [on_test(one, data) | {"dead_in_training": dead(one, array(data["train"]))} for one in fitted]
    pairs = [mean_max_cosine(one.atoms, two.atoms) for one, two in combinations(fitted, 2)]
    probes = [corpus.probe(one, case.layer, case.rows, data) for one in fitted[:1]]
    return {
        "case": case.label,
        **case._asdict(),
        "k": k,
        "train_rows": data["train"].height,
        "steps": fitted[0].steps,
        **{name: round(float(np.mean([one[name] for one in found])), 6) for name in found[0]},
        "stability": round(float(np.mean(pairs)), 4) if pairs else None,
        f"probe_{PROBED}": round(probes[0], 4),
        "seconds": round(seconds, 1),
    }


@torch.no_grad()
def on_test(fitted: Fitted, data: dict[str, RowSource]) -> dict[str, float]:
    mean = torch.from_numpy(array(data["train"]).mean(axis=0, dtype=np.float64)).float()
    residual = total = active = 0.0
    fired = torch.zeros(len(fitted.atoms), dtype=torch.bool)
    for rows in torch.from_numpy(array(data["test"])).split(AT_ONCE):
        seen = fitted.see(rows)
        residual += (rows - seen.rebuilt).square().sum(dtype=torch.float64).item()
        total += (rows - mean).square().sum(dtype=torch.float64).item()
        if seen.codes is not None:
            active += (seen.codes != 0).sum().item()
            fired |= (seen.codes != 0).any(dim=0)
    return {"fvu": residual / total, "l0": active / data["test"].height, "dead": 1.0 - fired.float().mean().item()}


@torch.no_grad()
def dead(fitted: Fitted, rows: np.ndarray) -> float:
    """Return the fraction of latents that are active in no row."""
    fired = torch.zeros(len(fitted.atoms), dtype=torch.bool)
    for some in torch.from_numpy(rows).split(AT_ONCE):
        codes = fitted.see(some).codes
        if codes is not None:
            fired |= (codes != 0).any(dim=0)
    return 1.0 - fired.float().mean().item()


def recipe_of(method: str) -> TrainConfig:
    if method == "study":
        return MARIOTTE2025
    return DEFAULT.model_copy(update=ARCHITECTURES.get(method, {}))


def make(method: str) -> Callable[[dict[str, RowSource], TrainConfig, int, int], Fitted]:
    return {
        "PCA": pca,
        "dictionary-learning TopK": peer("top_k", "TopKTrainer"),
        "dictionary-learning BatchTopK": peer("batch_top_k", "BatchTopKTrainer"),
    }.get(method, own)


def own(data: dict[str, RowSource], recipe: TrainConfig, k: int, seed: int) -> Fitted:
    train = data["train"]
    if recipe is MARIOTTE2025 and train.height > 4 * LATENTS:
        # a hundred epochs of many rows in batches of 16 take an hour; the best state is at epoch seven
        recipe = recipe.model_copy(update={"epochs": 10.0})
    trained = fit(train, data["valid"], recipe, latents=LATENTS, k=k, seed=seed)
    sae: SparseAutoencoder = trained.sae

    def see(rows: torch.Tensor) -> Seen:
        return Seen(*sae(rows))

    return Fitted(see, sae.decoder.detach().numpy(), trained.summary["steps"])


def pca(data: dict[str, RowSource], _recipe: TrainConfig, k: int, _seed: int) -> Fitted:
    rows = array(data["train"]).astype(np.float64)
    mean = rows.mean(axis=0)
    axes = np.linalg.eigh((rows - mean).T @ (rows - mean))[1][:, ::-1][:, :k].T
    centre, basis = torch.from_numpy(mean).float(), torch.from_numpy(axes.copy()).float()

    def see(rows: torch.Tensor) -> Seen:
        codes = (rows - centre) @ basis.T
        return Seen(codes, codes @ basis + centre)

    return Fitted(see, axes, 0)


def peer(module: str, trainer: str) -> Callable[[dict[str, RowSource], TrainConfig, int, int], Fitted]:
    """Train with dictionary-learning on the same rows, batches and steps; the better of two learning rates.

    Its rule for the rate is meant for 100,000 steps, so ten times as much is tried too, and the validation
    groups choose. Warm-up and decay are its defaults' shares of a run that short. RowSource come at a mean square norm
    of 1, as its own loop has them.
    """

    def train(data: dict[str, RowSource], recipe: TrainConfig, k: int, seed: int) -> Fitted:
        absent: Any = types.ModuleType("nnsight")
        absent.LanguageModel = object  # imported for its activation buffer, which is not used here
        sys.modules.setdefault("nnsight", absent)
        found = __import__(f"dictionary_learning.trainers.{module}", fromlist=[trainer])
        rows, valid = data["train"], torch.from_numpy(array(data["valid"]))
        plan = Plan.derive(recipe, height=rows.height, latents=LATENTS, k=k, seed=seed)
        norm = float(np.sqrt(np.square(array(rows), dtype=np.float64).sum(axis=1).mean()))
        best: tuple[float, Any] = (np.inf, None)
        for times in (1.0, 10.0):
            made = getattr(found, trainer)(
                steps=plan.steps, activation_dim=rows.width, dict_size=LATENTS, k=k, layer=0, lm_name="none",
                device="cpu", seed=seed, lr=times * 2e-4 / (LATENTS / 2**14) ** 0.5,
                warmup_steps=plan.steps // 20, decay_start=int(0.8 * plan.steps), threshold_start_step=plan.steps // 2,
            )  # fmt: skip
            order: Shuffle = plan.shuffle
            for step in range(plan.steps):
                made.update(step, torch.from_numpy(rows.take(order.indices(step))) / norm)
            with torch.no_grad():
                error = (made.ae(valid / norm) - valid / norm).square().mean().item()
            if error < best[0]:
                best = error, made.ae
        ae = best[1]

        @torch.no_grad()
        def see(batch: torch.Tensor) -> Seen:
            rebuilt, codes = ae(batch / norm, output_features=True)
            return Seen(codes, rebuilt * norm)

        return Fitted(see, ae.decoder.weight.detach().numpy().T, plan.steps)

    return train


@dataclass
class Material:
    """Activations of a run folder by split, and the labels of its clips."""

    folder: Path
    most: int

    @cached_property
    def store(self) -> ActivationStore:
        return ActivationStore.open(self.folder / "activations")

    @cached_property
    def clips(self) -> pl.DataFrame:
        table = pl.read_parquet(self.folder / "corpus.parquet")
        return self.store.clips.select("clip_id", "frames").join(table, on="clip_id", how="left")

    @property
    def name(self) -> str:
        return "FSDD" if "label_digit" in self.clips.columns else "sung"

    @property
    def splits(self) -> list[str]:
        return self.clips["split"].to_list()

    @property
    def label(self) -> str:
        return "label_digit" if "label_digit" in self.clips.columns else "label_technique"

    def ids(self, side: str) -> list[str]:
        return self.clips.filter(pl.col("split") == side)["clip_id"].to_list()

    def rows(self, layer: int, kind: str) -> dict[str, RowSource]:
        """Return the rows of each split; a seeded sample of clips if there are more frames than requested."""
        if kind == "pooled":
            sides = {side: self.store.pooled(layer, self.ids(side)) for side in ("train", "valid", "test")}
            return {side: ArrayRows(np.ascontiguousarray(rows)) for side, rows in sides.items()}
        most = {"train": self.most, "valid": self.most // 4, "test": None}
        return {side: cache_rows(self.store.rows(layer, self._drawn(side, most[side])), HELD_BYTES) for side in most}

    def _drawn(self, side: str, most: int | None) -> list[str]:
        """Return a seeded sample of clips within the frame budget, in corpus order."""
        table = self.clips.filter(pl.col("split") == side)
        if most is None:
            return table["clip_id"].to_list()
        order = np.random.default_rng(0).permutation(table.height)
        kept = order[np.cumsum(table["frames"].to_numpy()[order]) <= most]
        return table["clip_id"].gather(np.sort(kept)).to_list()

    @torch.no_grad()
    def probe(self, fitted: Fitted, layer: int, kind: str, data: dict[str, RowSource]) -> float:
        """Return balanced accuracy on test groups from the 8 best latents; codes of frames are averaged per clip."""
        if kind == "pooled":
            codes = np.concatenate([_codes(fitted, torch.from_numpy(array(data[side]))) for side in data])
            table = pl.concat([self.clips.filter(pl.col("split") == side) for side in data])
        else:
            every, table = self.store.rows(layer), self.clips
            codes = np.stack(
                [
                    _codes(fitted, torch.from_numpy(every.take(np.arange(*bounds)))).mean(axis=0)
                    for bounds in zip(every.starts[:-1], every.starts[1:], strict=True)
                ]
            )
        settings = SparseProbeSettings(sizes=(PROBED,))
        curve = sparse_probe(
            codes, table[self.label].cast(pl.String).to_numpy(), groups=table["group"].to_numpy(),
            split=table["split"].to_numpy(), settings=settings,
        )  # fmt: skip
        return curve.scores[0].value


def array(rows: RowSource) -> np.ndarray:
    return rows.take(np.arange(rows.height))


def _codes(fitted: Fitted, rows: torch.Tensor) -> np.ndarray:
    seen = fitted.see(rows)
    if seen.codes is None:
        raise TypeError("this representation has no codes")
    return seen.codes.numpy()


def line(row: dict[str, Any]) -> str:
    stability = "     " if row["stability"] is None else f"{row['stability']:.3f}"
    return (
        f"{row['case']:62s} FVU {row['fvu']:.4f}  L0 {row['l0']:6.1f}  dead {row['dead']:.3f} "
        f"(in training {row.get('dead_in_training', float('nan')):.3f})  "
        f"stability {stability}  {PROBED}-sparse {row[f'probe_{PROBED}']:.3f}  {row['seconds']:6.1f} s"
    )


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Compare the default with each method on the same rows, on average over layers."""
    lines = []
    for corpus, kind in sorted({(row["corpus"], row["rows"]) for row in rows}):
        at = {
            (row["method"], row["layer"]): row["fvu"]
            for row in rows
            if (row["corpus"], row["rows"], row["sparsity"]) == (corpus, kind, SPARSEST)
        }
        for method in dict.fromkeys(name for name, _ in at):
            shared = [layer for name, layer in at if name == method and ("default", layer) in at]
            if method != "default" and shared:
                ratios = [at["default", layer] / at[method, layer] for layer in shared]
                share = f"{np.mean(ratios):.2f} of {method}'s over {len(shared)} layers"
                lines.append(f"{corpus} {kind}: the default's FVU is {share}")
    return lines


if __name__ == "__main__":
    main()
