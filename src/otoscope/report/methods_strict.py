"""How the strict protocol asked, in one paragraph."""

from collections.abc import Mapping

from otoscope.config.strict import StrictSettings
from otoscope.protocols.strict import NAME
from otoscope.report import words
from otoscope.report.baselines import WORDS
from otoscope.report.folder import Run
from otoscope.report.strict_limits import margins_told


def strict_method(run: Run) -> str | None:
    """Return the paragraph; None where the protocol was not asked for."""
    if NAME not in run.results.protocols:
        return None
    given = (run.config.get("evaluate") or {}).get(NAME)
    asked = StrictSettings.model_validate(given if isinstance(given, Mapping) else {})
    return " ".join([*_reading(asked), *_beside(asked), *_limits(asked)])


def _reading(asked: StrictSettings) -> list[str]:
    chosen = {
        "layer": "the layer compared is that whose dense activations predict factors (without any, labels) best",
        "sparsity": "its sparsity the highest that reads as much as the best up to one standard error",
    }
    by = words.listed(said for name, said in chosen.items() if getattr(asked, name) == "chosen")
    return [
        "Labels and factors are read by ridge regression (one output a class), whose penalty is chosen by leaving "
        f"whole training and validation groups out, in up to {asked.folds} folds; what is compared is scored once, on "
        f"test groups.{f' On groups left out, {by}.' if by else ''}",
        "A factor's values are replaced by their ranks among the training clips, scaled to a normal shape; factors "
        "dominated by a few clips are dropped, and of factors whose rank correlation reaches "
        f"{asked.near_duplicates} one is asked. A factor is predicted well from an R² of {asked.min_r2} on, above its "
        f"null of {words.count(asked.permutations, 'refit')} on permuted clips.",
        "Dimensions are counted on the weights of a LASSO for each factor, only over factors that the layer and the "
        "codes of every seed predict well, the same for all; their intervals leave out one factor at a time.",
    ]


def _beside(asked: StrictSettings) -> list[str]:
    names = words.listed(WORDS.get(name, name) for name in asked.baselines)
    said = [f"Beside layer and codes stand {names}."] if asked.baselines else []
    if asked.seeds > 1:
        said.append(
            f"The dictionary compared is trained {asked.seeds} times with other seeds; numbers of codes are their "
            "means, with intervals over groups and seeds."
        )
    return said


def _limits(asked: StrictSettings) -> list[str]:
    if not asked.limit_sparsities or not asked.limit_presets:
        return []
    levels = words.listed(words.sparsity(s) for s in asked.limit_sparsities)
    return [
        f"How far sparsity can go is looked for at {levels} with the recipes {words.listed(asked.limit_presets)}; the "
        f"margins were fixed beforehand: {margins_told()}. otoscope's docs/methods.md gives every formula with its "
        "source."
    ]
