"""Stage `train`: every SAE of the grid."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from otoscope.artifacts import read_json_as, write_json
from otoscope.formatting import count, percent
from otoscope.report.estimates import DENSE_SHARE
from otoscope.report.evidence import count_folds
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.runs.folder import load_corpus
from otoscope.runs.inputs import open_activations
from otoscope.runs.training import GridTraining, fold_members, training_grid, unlearned
from otoscope.sae.checkpoint import CARD, WEIGHTS


def train(run: Context) -> None:
    """Train the missing SAEs of the grid and of its folds; write `saes/ID/` for each, and `saes/index.json`."""
    folder, store = run.folder, open_activations(run.folder, run.config)
    splits, folds = run.config.splits, count_folds(load_corpus(folder).clips)
    shared = training_grid(run.config, list(store.layers))
    grid = [one for member in shared for one in (member, *fold_members(member, splits, folds))]
    training = GridTraining(run, store, grid)
    index = folder.saes / "index.json"
    trained = [member.sae_id for member in grid]
    files = [folder.saes / sae_id / name for sae_id in trained for name in (CARD, WEIGHTS)]
    reported = set[str]()

    def work() -> None:
        reported.update(training.ensure())
        write_json(index, {"saes": trained})

    inputs = training.fingerprint
    run_stage(folder, "train", inputs=inputs, outputs=[index, *files], work=work, progress=run.progress)
    # after the stage, so that a run that is up to date repeats what the cards say
    cards = [read_json_as(folder.saes / sae_id / CARD, dict[str, Any]) for sae_id in trained]
    for line in (training_summary(cards), *training_cautions(cards, reported=reported)):
        run.progress.message(f"  {line}")


def training_summary(cards: Sequence[Mapping[str, Any]]) -> str:
    """Return explained variance and dead latents of trained SAEs on the validation rows, as one line."""
    explained = sorted(card["training"]["valid_explained_variance"] for card in cards)
    span = " to ".join(dict.fromkeys(f"{value:.1%}" for value in (explained[0], explained[-1])))
    dead = {card["training"]["valid_dead_fraction"]: str(card["sae_id"]) for card in cards}
    most = max(dead)
    name = f" ({dead[most]})" if len(cards) > 1 and most > 0 else ""
    of_all = count(len(cards), "dictionary", "dictionaries")
    not_learned = "".join(
        f"; {len(found.names)} of {of_all}: {found.label} ({found.reason})"
        for found in unlearned({str(card["sae_id"]): card for card in cards})
    )
    return f"validation groups: {span} of the variance explained, at most {most:.1%} dead latents{name}{not_learned}"


MOST_LISTED = 6
"""Different warnings that are printed; the others are counted."""


def training_cautions(cards: Sequence[Mapping[str, Any]], *, reported: Collection[str] = ()) -> list[str]:
    """Return a caution about dictionaries with dense codes, and each warning on the cards that was not `reported`."""
    dense = sorted(k for card in cards if (k := card["k"]) >= DENSE_SHARE * card["model"]["width"])
    lines: list[str] = []
    if dense:
        lines.append(
            f"caution: k is at least {percent(DENSE_SHARE, 0)} of the layer's {cards[0]['model']['width']} dimensions "
            f"in {len(dense)} of {count(len(cards), 'dictionary', 'dictionaries')} (from k={dense[0]} on); principal "
            "axes reconstruct as well as true features there, and explained variance does not tell them apart"
        )
    named: dict[str, list[str]] = {}
    for card in cards:
        for warning in card["training"]["warnings"][: -1 if unlearned({"": card}) else None]:
            if warning not in reported:
                named.setdefault(warning, []).append(str(card["sae_id"]))
    warnings = [
        f"warning: {names[0] if len(names) == 1 else f'{len(names)} dictionaries, such as {names[0]}'}: {warning}"
        for warning, names in named.items()
    ]
    more = len(warnings) - MOST_LISTED
    return lines + warnings[:MOST_LISTED] + ([f"and {count(more, 'more warning')}, see the cards"] if more > 0 else [])
