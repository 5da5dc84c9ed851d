"""Agreement between seeds, beside that of SAEs that learned no atoms."""

from collections.abc import Sequence

import numpy as np
import torch

from otoscope.metrics.record import Record
from otoscope.protocols.strict.seeds import Dictionaries, compare_seeds
from otoscope.sae.config import DEFAULT, FROZEN_DECODER, TrainConfig
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.train import begin, fit
from tests.support.planted_claims import Planted, planted_clips

ABOUT = Record(metric="l0", value=0.0, split="test", representation="sae", layer=1, protocol="strict")
K = 4
FROZEN = FROZEN_DECODER.model_copy(update={"epochs": 3.0})


def described(saes: Sequence[SparseAutoencoder], frames: np.ndarray) -> Dictionaries:
    """Return atoms, and codes averaged over the frames of each clip."""
    with torch.inference_mode():
        codes = [sae.encode(torch.from_numpy(frames.reshape(-1, frames.shape[2]))).numpy() for sae in saes]
    return Dictionaries(
        [sae.decoder.detach().numpy() for sae in saes],
        [part.reshape(*frames.shape[:2], -1).mean(axis=1) for part in codes],
    )


def agreement(world: Planted, rows: int, config: TrainConfig, latents: int) -> dict[tuple[str, str], Record]:
    """Return the records of three seeds trained on so many rows, beside starts and frozen decoders, by name."""
    train, valid = (world.frames[world.targets.split == part].reshape(-1, 16) for part in ("train", "valid"))
    kept = train[:: len(train) // rows]
    trained = [fit(kept, valid, config, latents=latents, k=K, seed=seed).sae for seed in range(3)]
    starts = [begin(kept, valid, config, latents=latents, k=K, seed=seed).sae.eval() for seed in range(2)]
    frozen = [fit(kept, valid, FROZEN, latents=latents, k=K, seed=seed).sae for seed in range(2)]
    unlearned = {"start": described(starts, world.frames), "frozen_decoder": described(frozen, world.frames)}
    groups = world.targets.groups
    found = compare_seeds(described(trained, world.frames), groups=groups, about=ABOUT, unlearned=unlearned)
    return {(record.representation, record.metric): record for record in found.records}


def test_compare_seeds_that_are_principal_axes_agree_no_more_than_their_starts():
    """At this rate no step improves on the start, which every seed shares: all latents reappear, none was learned."""
    config = DEFAULT.model_copy(update={"learning_rate": 0.3, "epochs": 3.0})
    found = agreement(planted_clips(0), 40, config, latents=192)
    share = found["sae", "reappearing_share"]
    assert share.value > share.null_mean + 0.9
    assert share.value <= share.null_high == found["start", "reappearing_share"].value


def test_compare_seeds_that_learned_the_sources_agree_more_than_frozen_decoders():
    found = agreement(planted_clips(0), 1600, DEFAULT, latents=48)
    for metric in ("mean_max_cosine", "matched_correlation", "reappearing_share"):
        record = found["sae", metric]
        assert record.value > found["frozen_decoder", metric].value + 0.1, metric
        assert record.null_high == max(found[name, metric].value for name in ("start", "frozen_decoder")), metric


def test_compare_seeds_has_a_null_of_the_mean_over_latents():
    """The value is a mean over latents, so the null varies as means do, not as single latents."""
    rng = np.random.default_rng(0)
    codes = [rng.normal(size=(60, 80)) for _ in range(2)]
    atoms = [rng.normal(size=(80, 8)) for _ in range(2)]
    found = compare_seeds(Dictionaries(atoms, codes), groups=np.repeat(np.arange(6), 10), about=ABOUT)
    (record,) = (one for one in found.records if one.metric == "matched_correlation")
    assert record.null_mean <= record.null_high < record.null_mean + 0.03
