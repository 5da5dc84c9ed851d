"""One dictionary, from its rows to its best state."""

from otoscope.sae.config import TrainConfig
from otoscope.sae.data import RowsLike, as_rows
from otoscope.sae.kernel_optimiser import pick_engine
from otoscope.sae.optimiser import EngineFactory
from otoscope.sae.plan import draft, require_memory
from otoscope.sae.resources import find_device
from otoscope.sae.statistics import Moments, require_all_finite
from otoscope.sae.train import Trained, begin, finish, train


def fit(
    rows: RowsLike,
    valid_rows: RowsLike,
    preset: TrainConfig | str = "default",
    *,
    latents: int,
    k: int | None = None,
    sparsity: float | None = None,
    seed: int = 0,
    moments: Moments | None = None,
    engine: EngineFactory = pick_engine,
    device: str = "cpu",
) -> Trained:
    """Train one dictionary to its end and return its best state on the validation rows, frozen and in eval mode.

    Args:
        rows: what to learn from: an array or tensor `[rows, width]` as it is, in any unit (any leading axes count as
            rows), or `Rows` that need not fit in memory.
        valid_rows: rows to choose the best state by, of groups (speakers, singers) that `rows` are not of.
        preset: a recipe of the catalogue by name, or one that `otoscope.recipe` made.
        latents: size of the dictionary.
        k: how many latents may be active in a row; or instead
        sparsity: share of the latents that must not be, which makes `k = int((1 - sparsity) * latents)`.
        seed: draws the start and the order of rows; the same seed gives the same dictionary on the same machine.
        moments: what `measure` said of `rows`; saves reading them once more when many dictionaries are trained on them.
        engine: what takes the steps; the fastest that fits the recipe when left out.
        device: where it is trained, such as "cuda"; what is returned is on the CPU.

    Raises `ConfigError` for settings and a device that is not there, `TrainingError` for rows.

    >>> import numpy as np, torch
    >>> draw = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    >>> trained = fit(draw[:500], draw[500:], latents=16, k=2)
    >>> trained.sae.encode(torch.from_numpy(draw[500:])).numpy().shape
    (100, 16)
    >>> trained.summary["train_rows"], trained.summary["valid_l0"] <= 2, len(trained.history) > 0
    (500, True, True)
    """
    rows, valid_rows = as_rows(rows), as_rows(valid_rows)
    made = draft(rows, valid_rows, preset, latents=latents, k=k, sparsity=sparsity, seed=seed)
    if find_device(device).type == "cpu":
        require_memory(rows, made, latents)
    require_all_finite(valid_rows, name="validation")
    run = begin(
        rows, valid_rows, preset,
        latents=latents, k=k, sparsity=sparsity, seed=seed, moments=moments, engine=engine, device=device,
    )  # fmt: skip
    for _ in train(run):
        pass
    return finish(run)
