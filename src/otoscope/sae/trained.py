"""What a run ends in."""

from typing import Any, NamedTuple

from otoscope.sae.model import SparseAutoencoder


class Trained(NamedTuple):
    """The best model, the validation points, and the numbers for its card.

    `sae` is the state with the least error on validation rows of those within the budget of active latents, on the CPU
    and as `load_sae` returns it: frozen (no parameter requires a gradient) and in eval mode. `history` holds a
    mapping for each validation: `step`, `epoch`, the losses of that step's batch, and the measures `valid_*`.
    `summary` tells of the whole training:

    - `steps` taken of `planned_steps`, and the `best_step` that `sae` is from; `epochs`, `batch` (rows of a step);
    - `engine` and `device` that trained, `learning_rate` at its peak;
    - `train_rows`, `valid_rows`; `constant_dimensions` (that do not vary), `largest_variance_share` (of one dimension,
      0 to 1), `scaling` (what the rows were divided by);
    - `warnings`, what a reader of results should know, a line each: outlier and constant dimensions, fewer training
      rows than latents, a single validation row, a start that no step improved on where one should (`best_step` 0);
    - `dead_window_rows`: a latent that fires for none of so many training rows in a row counts as dead in training;
    - of `sae` on the validation rows: `valid_mse` (mean square error of a value, in the rows' own units squared),
      `valid_inner_mse` (after scaling), `valid_explained_variance` (1 is all, 0 the training mean; below 0 is worse),
      `valid_standardised_explained_variance` (the same, every dimension counting alike), `valid_l0` (active latents a
      row), `valid_dead_fraction` (share of latents that no validation row activates).
    """

    sae: SparseAutoencoder
    history: list[dict[str, float]]
    summary: dict[str, Any]
