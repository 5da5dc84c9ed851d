"""Tuned, held-out LASSO regressions of one representation: otoscope compared with loops over scikit-learn's `LassoCV`.

    python benchmarks/eval.py                              # k 20, dense, k 102; last line is JSON
    python benchmarks/eval.py --cases k20 dense --run runs/fsdd
    python benchmarks/eval.py --permutations 2             # fewer permuted targets on both sides

Per representation: 1,600 rows in 20 groups, 88 factors, 5 folds of whole groups, 20 penalties from the smallest that
gives no weight down to 1 % of it (0.1 % with fewer features than rows), and the same for 20 permutations of the rows:
1,848 targets. otoscope (`fit_factors`, every penalty of every fold, standardised per fold, intervals and nulls) runs
on `--factors` of the 88 with all their permutations; the cost that targets share (Gram matrices, inverses) is then
charged to these alone. The loop runs on `--sample` factors and as many permuted ones, before and after otoscope, and is
scaled to the same number; permuted factors take longer and are scaled separately. The loop has the same rows, folds,
penalties and cores (`n_jobs=2`), and the `tol` that guarantees an objective within 1e-6 of the minimum:

* `ratio`: the plain loop, `LassoCV` with a dense matrix and `precompute="auto"`;
* `ratio_tuned`: the fastest form of `LassoCV` for these rows: dense or sparse, with or without a Gram matrix, chosen
  on a permuted factor and one fold (`lasso_cv_input`);
* `ratio_tuned_default_tol`: that form at its default `tol`, which solves less exactly.

Seconds are processor time, which other load barely affects; `ratio_wall` is `ratio` in wall-clock time.

`objective_gap` is the larger of two numbers: the largest duality gap, relative to its objective, over all problems that
otoscope solved (an upper bound of the distance to the minimum), and the excess of its objective over scikit-learn's on
the same problems, measured on one fold of the loop's factors.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import describe_machine, machine_line

ROWS, GROUPS, FACTORS, FOLDS, ALPHAS = 1600, 20, 88, 5, 20
TEST_GROUPS = 5
WIDTH, LATENTS = 768, 2048
TURNS = 2
"""Turns of the loop, before and after otoscope's run."""


class Took(NamedTuple):
    """Seconds of wall-clock and of processor time."""

    wall: float
    cpu: float


class Data(NamedTuple):
    name: str
    features: Any
    factors: Any
    groups: Any
    split: Any


def main() -> None:
    from otoscope.hardware import available_cores

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["k20", "dense", "k102"])
    parser.add_argument("--run", type=Path, help="also measure on an SAE of this run folder")
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--factors", type=int, default=4, help="factors that otoscope fits, of 88")
    parser.add_argument("--sample", type=int, default=1, help="factors, and permuted factors, that the loop fits")
    parser.add_argument("--input", choices=["fastest", *INPUTS], default="fastest", help="the tuned form of LassoCV")
    parser.add_argument("--stopping", action="store_true", help="also time otoscope with early stopping")
    parser.add_argument("--threads", type=int, default=min(2, available_cores()))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")
    makers: list[Callable[[], Data]] = [CASES[name] for name in options.cases]
    if options.run:
        makers.append(lambda: from_run(options.run))
    machine = describe_machine()
    print(machine_line(machine))
    warm_up()
    rows = [{**measure(make(), options), "machine": machine} for make in makers]
    print(json.dumps({"bench": "eval", "rows": rows}))


def measure(data: Data, options: argparse.Namespace) -> dict[str, Any]:
    from otoscope.linear.lasso import LassoSettings, fit_factors

    factors = data.factors[:, : options.factors]
    n = factors.shape[1]
    rng = np.random.default_rng(0)
    shuffled = (factors[rng.permutation(len(factors))] for _ in range(options.permutations))
    targets = np.concatenate([factors, *shuffled], axis=1)
    loop = Loop(data, factors, options)
    settings = LassoSettings(folds=FOLDS, alphas=ALPHAS, patience=None, reach=None)

    def fit(**other: Any) -> tuple[Took, Any]:
        start = clocks()
        found = fit_factors(
            data.features,
            targets,
            groups=data.groups,
            split=data.split,
            settings=LassoSettings(**{**settings.__dict__, **other}),
            workers=options.threads,
        )
        return since(start), found

    loop.turn(0)
    ours, found = fit()
    loop.turn(1)
    stopping = fit(patience=3)[0] if options.stopping else None
    above, gap = loop.compare(), float(np.nanmax(found.gap))
    plain, tuned, default = (loop.seconds(peer) for peer in PEERS)
    print(f"\n{data.name}: {loop.live} live features, {ROWS} rows, {n} factors, {options.permutations} permutations")
    print(f"  {'':44s} {'CPU s':>9s} {'wall s':>9s}   LassoCV / otoscope")
    print(f"  {'otoscope, every penalty':44s} {ours.cpu:9.1f} {ours.wall:9.1f}")
    if stopping:
        print(f"  {'otoscope, early stopping after 3 penalties':44s} {stopping.cpu:9.1f} {stopping.wall:9.1f}")
    named = (f"plain, tol {loop.tolerance:.0e}", f"{loop.kind}, tol {loop.tolerance:.0e}", f"{loop.kind}, tol 1e-04")
    for name, took in zip(named, (plain, tuned, default), strict=True):
        times = f"{took.cpu / ours.cpu:.1f} CPU, {took.wall / ours.wall:.1f} wall"
        print(f"  {'LassoCV, ' + name:44s} {took.cpu:9.0f} {took.wall:9.0f}   {times}")
    print(f"  LassoCV scaled from {loop.counted()}")
    print(f"  largest duality gap {gap:.1e}; objective exceeds scikit-learn's by at most {above:+.1e}", flush=True)
    return {
        "case": data.name,
        "ratio": round(plain.cpu / ours.cpu, 1),
        "ratio_tuned": round(tuned.cpu / ours.cpu, 1),
        "ratio_tuned_default_tol": round(default.cpu / ours.cpu, 1),
        "ratio_wall": round(plain.wall / ours.wall, 1),
        **({"ratio_stopping": round(plain.cpu / stopping.cpu, 1)} if stopping else {}),
        "objective_gap": float(f"{max(gap, above):.2e}"),
        "cpu_seconds": round(ours.cpu, 1),
        "lasso_cv_plain_cpu_seconds": round(plain.cpu),
        "lasso_cv_tuned_cpu_seconds": round(tuned.cpu),
        "lasso_cv_tuned_default_tol_cpu_seconds": round(default.cpu),
        "lasso_cv_input": loop.kind,
        "lasso_cv_tol": float(f"{loop.tolerance:.1e}"),
        "live_features": loop.live,
        "permutations": options.permutations,
        "factors": n,
        "factors_timed": options.sample,
    }


def clocks() -> Took:
    return Took(time.perf_counter(), time.process_time())


def since(start: Took) -> Took:
    return Took(*(now - then for now, then in zip(clocks(), start, strict=True)))


class Loop:
    """The plain loop: one `LassoCV` per factor and permutation, timed on a sample."""

    def __init__(self, data: Data, factors: Any, options: argparse.Namespace) -> None:
        from sklearn.model_selection import GroupKFold

        from otoscope.linear.gram import live_columns
        from otoscope.resampling.groups import group_folds

        fitted = data.split != "test"
        features = data.features[fitted].astype(np.float64)
        features = features[:, live_columns(features)]
        self.live = features.shape[1]
        self.options, self.n = options, factors.shape[1]
        self.x = np.asfortranarray((features - features.mean(axis=0)) / features.std(axis=0))
        self.sparse_x = features / features.std(axis=0)
        self.y = (factors[fitted] - factors[fitted].mean(axis=0)) / factors[fitted].std(axis=0)
        folds = group_folds(data.groups[fitted], FOLDS)
        self.folds = [(np.flatnonzero(folds != f), np.flatnonzero(folds == f)) for f in range(FOLDS)]
        sizes = sorted(len(test) for _, test in GroupKFold(FOLDS).split(self.x, groups=data.groups[fitted]))
        assert sizes == sorted(len(test) for _, test in self.folds)
        rng = np.random.default_rng(1)
        spread = np.linspace(0, self.n - 1, options.sample).round().astype(int)
        self.plain = [self.y[:, j] for j in spread]
        self.permuted = [rng.permutation(self.y[:, j]) for j in spread]
        self.times: dict[tuple[str, bool], list[Took]] = {(peer, p): [] for peer in PEERS for p in (False, True)}
        self.kind = self._fastest() if options.input == "fastest" else options.input
        self.tolerance = self._guarantee()
        pairs = zip(self.plain, self.permuted, strict=True)
        self.waiting = [(y, permuted) for pair in pairs for permuted, y in enumerate(pair)]

    def alphas(self, y: Any) -> Any:
        smallest = 1e-2 if len(self.folds[0][0]) < self.live else 1e-3
        return np.abs(self.x.T @ y).max() / len(y) * np.geomspace(1, smallest, ALPHAS)

    def turn(self, part: int) -> None:
        """Time every peer on this part of the factors."""
        for y, permuted in self.waiting[part::TURNS]:
            asked = {"plain": ("plain", self.tolerance), "tuned": (self.kind, self.tolerance)}
            asked["tuned, default tol"] = self.kind, DEFAULT_TOL
            took = {how: self._fit(y, *how) for how in dict.fromkeys(asked.values())}
            for peer, how in asked.items():
                self.times[peer, bool(permuted)].append(took[how])

    def seconds(self, peer: str) -> Took:
        plain, permuted = (np.mean(self.times[peer, p], axis=0) for p in (False, True))
        return Took(*(self.n * (plain + self.options.permutations * permuted)).tolist())

    def counted(self) -> str:
        return f"{len(self.plain)} factors and {len(self.permuted)} permuted"

    def compare(self) -> float:
        """Return the largest excess of our objective over scikit-learn's on the first fold of the timed factors."""
        from scipy.sparse import csc_matrix
        from sklearn.linear_model import lasso_path

        from otoscope.linear.batched_lasso import MIN_ADMM_TARGETS, BatchedLasso, BatchedPath
        from otoscope.linear.gram import MAX_SPARSE_COLUMN_DENSITY
        from otoscope.linear.sparse_descent import make_sparse_columns

        train = self.folds[0][0]
        live = np.ptp(self.x[train], axis=0) > 0
        raw = self.sparse_x[train][:, live] / self.x[train][:, live].std(axis=0)
        x = np.asfortranarray(raw - raw.mean(axis=0))
        y = np.stack([self.plain[0][train], self.permuted[0][train]], axis=1)
        y = (y - y.mean(axis=0)) / y.std(axis=0)
        alphas = np.stack([self.alphas(whole) for whole in (self.plain[0], self.permuted[0])])
        swept = np.count_nonzero(raw) <= MAX_SPARSE_COLUMN_DENSITY * raw.size
        columns = make_sparse_columns(raw, raw.mean(axis=0), np.zeros(raw.shape[1], dtype=bool)) if swept else None
        solver = BatchedLasso(x.T @ x / len(x), rank=len(x) - 1, targets=MIN_ADMM_TARGETS, columns=columns)
        trail = BatchedPath(solver, y.T @ x / len(x), np.ones(2), y.T / np.sqrt(len(y)), 1e-6)
        ours = []
        for step in range(ALPHAS):
            trail.solve_at(np.arange(2), alphas[:, step])
            ours.append(trail.weights.copy())
        # centring stays implicit for a sparse matrix
        sparse = {"X_offset": raw.mean(axis=0), "X_scale": np.ones(raw.shape[1])} if self.kind == "sparse" else {}
        worst = -np.inf
        for target in range(2):
            fall, weights = alphas[target], np.stack([step[target] for step in ours], axis=1)
            given = csc_matrix(raw) if sparse else x
            _, theirs, _ = lasso_path(given, y[:, target], alphas=fall, tol=self.tolerance, max_iter=10**6, **sparse)
            excess = objective(x, y[:, target], weights, fall) / objective(x, y[:, target], theirs, fall) - 1
            worst = max(worst, float(excess.max()))
        return worst

    def _fastest(self) -> str:
        """Return the input form that is fastest for a permuted factor on one fold."""
        # "auto" uses a Gram matrix if there are more rows than features
        kinds = ["plain", "gram" if len(self.folds[0][0]) <= self.live else "dense"]
        if np.count_nonzero(self.sparse_x) <= 0.5 * self.sparse_x.size:
            kinds.append("sparse")
        times = {kind: self._fit(self.permuted[0], kind, DEFAULT_TOL, folds=1).cpu for kind in kinds}
        return min(times, key=lambda kind: times[kind])

    def _guarantee(self) -> float:
        """Return the `tol` for which scikit-learn's stopping rule (gap < tol y'y) equals 1e-6 of the objective."""
        from otoscope.linear import lasso_path

        gram = self.x.T @ self.x / len(self.x)
        least = 1.0
        for y in (self.plain[0], self.permuted[0]):
            alphas = self.alphas(y)
            found = (
                lasso_path.solve_path(gram, self.x.T @ y / len(y), 1.0, alphas, 1e-6, rank=len(y) - 1).weights[-1:].T
            )
            least = min(least, float(objective(self.x, y, found, alphas[-1:])[0]))
        # y'y / n is 1: their rule compares n times the gap of our objective with n times tol
        return least * 1e-6

    def _fit(self, y: Any, kind: str, tolerance: float, *, folds: int = FOLDS) -> Took:
        from scipy.sparse import csc_matrix
        from sklearn.linear_model import LassoCV
        from threadpoolctl import threadpool_limits

        x = csc_matrix(self.sparse_x) if kind == "sparse" else self.x
        model = LassoCV(
            alphas=self.alphas(y),
            cv=self.folds[:folds],
            n_jobs=self.options.threads,
            tol=tolerance,
            max_iter=10**6,
            precompute=INPUTS[kind],
        )
        start = clocks()
        # its threads process one fold each, ours one set of targets: more threads inside a product would only wait
        with threadpool_limits(1, user_api="blas"):
            model.fit(x, y)
        return since(start)


INPUTS = {"plain": "auto", "dense": False, "gram": True, "sparse": False}
"""Input forms of `LassoCV`, and the `precompute` of each."""
PEERS = "plain", "tuned", "tuned, default tol"
DEFAULT_TOL = 1e-4


def objective(x: Any, y: Any, weights: Any, alphas: Any) -> Any:
    errors = y[:, None] - x @ weights
    return 0.5 * (errors**2).mean(axis=0) + alphas * np.abs(weights).sum(axis=0)


def warm_up() -> None:
    """Compile all kernels before timing."""
    from otoscope.linear.lasso import LassoSettings, fit_factors

    rng = np.random.default_rng(0)
    for threshold in (-9, 1, 2):
        fit_factors(
            np.maximum(rng.standard_normal((60, 80)) - threshold, 0),
            rng.standard_normal((60, 2)),
            groups=np.repeat(np.arange(6), 10),
            split=np.repeat(["train", "valid", "test"], 20),
            settings=LassoSettings(folds=2),
        )


def sung(height: int, seed: int) -> tuple[Any, Any]:
    """Structured rows and their causes: causes of very different frequency, with singer-specific preferences."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((600, WIDTH)) / np.sqrt(WIDTH)
    often = np.geomspace(0.3, 0.005, 600)
    rng = np.random.default_rng(seed)
    singer = np.repeat(np.arange(-(-height // 80)), 80)[:height]
    habit = rng.gamma(2, 0.5, (singer.max() + 1, 600))
    causes = (rng.random((height, 600)) < often * habit[singer]) * rng.gamma(4, 0.25, (height, 600))
    voice = 0.3 * rng.standard_normal((singer.max() + 1, WIDTH)) / np.sqrt(WIDTH)
    rows = causes @ directions + voice[singer] + 0.3 * rng.standard_normal((height, WIDTH)) / np.sqrt(WIDTH)
    return rows.astype(np.float32), causes


def described(causes: Any) -> Any:
    """Return factors that depend on 2 to 20 causes each, with noise that leaves 5 % to 90 % of their variance."""
    rng = np.random.default_rng(2)
    factors = np.empty((len(causes), FACTORS))
    for j in range(FACTORS):
        chosen = rng.choice(200, size=int(rng.integers(2, 21)), replace=False)
        signal = causes[:, chosen] @ rng.standard_normal(len(chosen))
        share = rng.uniform(0.05, 0.9)
        factors[:, j] = signal / signal.std() + np.sqrt(1 / share - 1) * rng.standard_normal(len(causes))
    return factors


def synthetic(k: int | None) -> Data:
    height = ROWS // GROUPS * (GROUPS + TEST_GROUPS)
    rows, causes = sung(height, seed=1)
    groups = np.repeat(np.arange(GROUPS + TEST_GROUPS), ROWS // GROUPS)
    split = np.where(groups < GROUPS - 4, "train", np.where(groups < GROUPS, "valid", "test"))
    name = f"dense layer, width {WIDTH}" if k is None else f"codes, {LATENTS} latents, k {k}"
    features = rows if k is None else encoded(rows, k)
    return Data(name, features, described(causes), groups, split)


def encoded(rows: Any, k: int) -> Any:
    """Return codes of the rows from a TopK SAE trained on other rows of the same distribution."""
    import torch

    from otoscope.sae.config import TrainConfig
    from otoscope.sae.data import ArrayRows
    from otoscope.sae.train import fit

    seen, valid = sung(12_000, seed=3)[0], sung(2_000, seed=4)[0]
    config = TrainConfig(batch=512, epochs=5, learning_rate=2e-3)
    sae = fit(ArrayRows(seen), ArrayRows(valid), config, latents=LATENTS, k=k).sae
    with torch.inference_mode():
        return sae.encode(torch.from_numpy(rows)).numpy()


def from_run(folder: Path) -> Data:
    """Load the pooled SAE with the median k of the middle layer; speaker and digit define 20 groups."""
    from otoscope.activations.store import ActivationStore
    from otoscope.artifacts import read_table
    from otoscope.factors.table import FactorTable
    from otoscope.sae.model import load_sae

    store = ActivationStore.open(folder / "activations")
    layer = store.layers[len(store.layers) // 2]
    homes = sorted((folder / "saes").glob(f"layer{layer:02d}-pooled-*"), key=lambda home: len(home.name))
    sae = load_sae(next(home for home in homes if "-k102-" in home.name)).sae
    clips = read_table(folder / "corpus.parquet").filter(
        read_table(folder / "corpus.parquet")["clip_id"].is_in(store.clip_ids)
    )
    order = np.random.default_rng(0).permutation(len(store.clip_ids))[: ROWS + ROWS // 4]
    ids = [store.clip_ids[i] for i in order]
    where = dict(zip(clips["clip_id"].to_list(), clips["group"].to_list(), strict=True))
    from otoscope.runs.codes import encode_rows

    codes = encode_rows(sae, store.pooled(layer, ids), np.arange(len(ids))).codes
    factors = FactorTable.load(folder / "factors.parquet").values(ids)
    groups = np.array([where[name] for name in ids])
    # few corpora have twenty speakers: blocks of rows serve as groups, at the same cost
    blocks = np.arange(len(ids)) // (ROWS // GROUPS)
    split = np.where(blocks < GROUPS - 4, "train", np.where(blocks < GROUPS, "valid", "test"))
    kept = factors[split != "test"].std(axis=0) > 0
    name = f"{folder.name}, layer {layer}, codes, {codes.shape[1]} latents, k 102 ({len(set(groups))} speakers)"
    return Data(name, codes, factors[:, kept], blocks, split)


CASES: dict[str, Callable[[], Data]] = {
    "k20": lambda: synthetic(20),
    "k102": lambda: synthetic(102),
    "k512": lambda: synthetic(512),
    "dense": lambda: synthetic(None),
}


if __name__ == "__main__":
    main()
