"""Stage `train`: every SAE of the grid."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from otoscope.artifacts import read_json_as, write_json
from otoscope.formatting import count
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.runs.inputs import open_activations
from otoscope.runs.training import GridTraining, learned_nothing, training_grid
from otoscope.sae.checkpoint import CARD, WEIGHTS


def train(run: Context) -> None:
    """Train the missing SAEs of the grid; write `saes/ID/` for each, and `saes/index.json`."""
    folder, store = run.folder, open_activations(run.folder, run.config)
    grid = training_grid(run.config, list(store.layers))
    training = GridTraining(run, store, grid)
    index = folder.saes / "index.json"
    files = [folder.saes / member.sae_id / name for member in grid for name in (CARD, WEIGHTS)]

    def work() -> None:
        training.ensure()
        write_json(index, {"saes": [member.sae_id for member in grid]})
        cards = [read_json_as(folder.saes / member.sae_id / CARD, dict[str, Any]) for member in grid]
        run.progress.message(f"  {training_summary(cards)}")

    inputs = training.fingerprint
    run_stage(folder, "train", inputs=inputs, outputs=[index, *files], work=work, progress=run.progress)


def training_summary(cards: Sequence[Mapping[str, Any]]) -> str:
    """Return explained variance and dead latents of trained SAEs on the validation rows, as one line."""
    explained = sorted(card["training"]["valid_explained_variance"] for card in cards)
    span = " to ".join(dict.fromkeys(f"{value:.1%}" for value in (explained[0], explained[-1])))
    dead = {card["training"]["valid_dead_fraction"]: str(card["sae_id"]) for card in cards}
    most = max(dead)
    name = f" ({dead[most]})" if len(cards) > 1 and most > 0 else ""
    starts = Counter(start for card in cards if (start := learned_nothing(card)))
    not_learned = "".join(
        f"; {number} of {count(len(cards), 'dictionary', 'dictionaries')}: {start}, not learned (best step 0)"
        for start, number in starts.items()
    )
    return f"validation groups: {span} of the variance explained, at most {most:.1%} dead latents{name}{not_learned}"
