"""Interventions whose effect is known: planted concepts in an encoder of rotations, and each operation on the codes."""

import numpy as np
import polars as pl
import pytest
import torch

from otoscope.encoders.catalog import load_encoder
from otoscope.errors import EncoderError, EvaluationError
from otoscope.explain.interventions import (
    ReadoutExperiment,
    atom,
    code_edit,
    component_direction,
    constant_shift,
    intervene,
    latent_shift,
    matched_in_rate,
    mean_effects,
    output_scores,
    relation_direction,
    shifted_by,
    side_effect,
    strongest_latents,
    with_norm,
)
from otoscope.explain.readouts import Concept, Readouts, Targets, concept_targets, fit_readouts
from otoscope.pipeline.interventions import DIFFERENCES, Arm, paired_differences
from otoscope.sae import SparseAutoencoder, TopK
from tests.support.planted_encoder import WIDTH, PlantedClips, axis_sae, linear_encoder, planted_clips
from tests.support.small_runs import Tiny, tone


class Planted:
    """Readouts of the planted concepts from layer 2, fitted on the first four groups."""

    def __init__(self) -> None:
        self.encoder, self.sae, self.clips = linear_encoder(), axis_sae(), planted_clips()
        clips: PlantedClips = self.clips
        self.train, self.valid = (np.isin(clips.groups, names) for names in (["g0", "g1", "g2"], ["g3"]))
        self.targets: Targets = concept_targets(clips.labels, np.zeros((len(clips.waves), 0)), [], train=self.train)
        self.pooled = {layer: self.encode(layer) for layer in (0, 2)}
        self.readouts: Readouts = fit_readouts(self.pooled[2], self.targets, train=self.train, valid=self.valid)
        self.test = np.flatnonzero(~self.train & ~self.valid)
        self.experiment = ReadoutExperiment(self.encoder, 0, 2, self.readouts, [clips.waves[i] for i in self.test])

    def encode(self, layer: int) -> np.ndarray:
        return np.stack([self.encoder.encode([w], [layer]).layers[layer][0].numpy().mean(0) for w in self.clips.waves])


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


def test_readouts_read_planted_concepts_on_unseen_groups(planted: Planted) -> None:
    assert planted.targets.concepts == (Concept("x", "a"), Concept("y", "c"))
    assert (planted.readouts.valid_r > 0.95).all()
    outputs, z = planted.readouts(planted.pooled[2])[planted.test], planted.targets.values[planted.test]
    assert outputs == pytest.approx(z, abs=0.35)


@pytest.mark.parametrize("own", [0, 1])
def test_ablating_the_planted_latent_removes_its_concept_and_leaves_the_other(planted: Planted, own: int) -> None:
    ablate = latent_shift(planted.sae, code_edit([own], "ablate", n_latents=2 * WIDTH))
    before, after = planted.experiment.outputs(), planted.experiment.outputs(lambda _: shifted_by(ablate))
    has = planted.targets.values[planted.test, own] > 0
    groups = planted.clips.groups[planted.test][has]
    effects = mean_effects(before[has], after[has], groups)
    assert effects[own].effect == pytest.approx(-2.0, abs=0.2)  # from one class to the other, in standard deviations
    assert abs(effects[1 - own].effect) < 0.1
    assert effects[own].low <= effects[own].effect <= effects[own].high


def test_adding_at_equal_norm_moves_the_readout_more_than_rivals_and_in_proportion(planted: Planted) -> None:
    before = planted.experiment.outputs()
    z = planted.targets.values[:, 0]
    rng = np.random.default_rng(0)
    directions = {
        "latent": atom(planted.sae, 0),
        "other": atom(planted.sae, 5),
        "means": relation_direction(planted.pooled[0][planted.train], z[planted.train]),
        "component": component_direction(planted.pooled[0], planted.pooled[0], z),
        "random": rng.normal(size=WIDTH),
    }

    def moved(name: str, dose: float) -> np.ndarray:
        shift = with_norm(constant_shift(directions[name]), dose)
        return (planted.experiment.outputs(lambda _: shifted_by(shift)) - before).mean(axis=0)

    own = {name: moved(name, 1.0)[0] for name in directions}
    assert own["latent"] > 1.2 * max(own["component"], own["other"], own["random"])
    assert own["means"] == pytest.approx(own["latent"], rel=0.1)
    assert abs(own["other"]) < 0.2 * own["latent"]
    assert abs(own["random"]) < 0.8 * own["latent"]
    doses = [moved("latent", dose)[0] for dose in (0.125, 0.25, 0.5, 1.0, 2.0)]
    assert np.array(doses) == pytest.approx(own["latent"] * np.array([0.125, 0.25, 0.5, 1, 2]), rel=1e-3)
    assert side_effect(moved("latent", 1.0), 0, planted.targets.entangled) < 0.1 * own["latent"]


def test_latents_are_chosen_by_activation_and_by_output(planted: Planted) -> None:
    codes = np.stack([planted.sae.encode(w.reshape(-1, WIDTH)).mean(axis=0) for w in planted.clips.waves])
    assert strongest_latents(codes, planted.targets.values[:, 1], top=3)[0] == 1
    atoms = {i: atom(planted.sae, i) for i in range(2 * WIDTH)}
    scores = output_scores(planted.experiment, planted.experiment.outputs(), atoms, norm=0.5)
    assert max(scores, key=lambda i: scores[i][0]) == 0
    assert min(scores, key=lambda i: scores[i][0]) == WIDTH  # the negative part of the same dimension


@pytest.mark.parametrize(
    ("operation", "amount", "wanted"),
    [("ablate", None, [0.0, 2.0]), ("clamp", 5.0, [5.0, 2.0]), ("scale", 3.0, [3.0, 2.0]), ("add", 0.5, [1.5, 2.0])],
)
def test_intervene_changes_named_latents_within_the_span(operation: str, amount: float | None, wanted: list) -> None:
    encoder, sae = linear_encoder(), axis_sae()
    rows = np.zeros((10, WIDTH), dtype=np.float32)
    rows[:, :2] = [1.0, 2.0]
    wave = rows.reshape(-1)
    kinds = {"operation": operation, "amount": amount}
    (after,) = intervene(encoder, sae, 0, [0], **kinds).encode([wave], [0]).layers[0]  # type: ignore[arg-type]
    assert after[:, :2].numpy() == pytest.approx(np.tile(wanted, (10, 1)))
    span = intervene(encoder, sae, 0, [0], span_s=(0.03, 0.06), **kinds)  # type: ignore[arg-type]
    (after,) = span.encode([wave], [0]).layers[0]
    changed = ~np.isclose(after.numpy(), rows).all(axis=1)
    assert changed.tolist() == [False] * 3 + [True] * 3 + [False] * 4


def test_intervene_keeps_what_the_dictionary_misses(tiny: Tiny) -> None:
    encoder = load_encoder(tiny("whisper"))
    poor = SparseAutoencoder(encoder.layers[0].width, 8, TopK(2)).eval().requires_grad_(False)
    wave = tone(220.0)
    frames = encoder.encode([wave], [1]).layers[1][0]
    (after,) = intervene(encoder, poor, 1, [3], operation="scale", amount=2.0).encode([wave], [1]).layers[1]
    codes = poor.encode(frames)
    assert torch.allclose(after, frames + codes[:, 3:4] * torch.from_numpy(atom(poor, 3)).float(), atol=1e-4)


def test_bad_requests_are_refused_with_what_to_do() -> None:
    encoder, sae, rates = linear_encoder(), axis_sae(), np.array([0.0, 0.5, 0.0])
    with pytest.raises(EvaluationError, match="no operation 'zero'"):
        code_edit([0], "zero", n_latents=4)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="latent 99 does not exist; the SAE has latents 0 to 23"):
        intervene(encoder, sae, 1, [99])
    with pytest.raises(EvaluationError, match="scale needs an amount"):
        intervene(encoder, sae, 1, [0], operation="scale")
    with pytest.raises(EvaluationError, match="amount must be a finite number, got nan"):
        intervene(encoder, sae, 1, [0], operation="add", amount=float("nan"))
    with pytest.raises(EvaluationError, match="ablate takes no amount"):
        intervene(encoder, sae, 1, [0], amount=1.0)
    with pytest.raises(EvaluationError, match="name at least one"):
        intervene(encoder, sae, 1, [])
    with pytest.raises(EncoderError, match="start first"):
        intervene(encoder, sae, 1, [0], span_s=(1.0, 0.5))
    with pytest.raises(EncoderError, match=r"holds no frame of a clip of 0\.10 s"):
        intervene(encoder, sae, 1, [0], span_s=(1.0, 2.0)).encode([np.zeros(120, np.float32)], [1])
    with pytest.raises(EvaluationError, match="latent 0 never fires"):
        matched_in_rate(rates, 0, 3)
    with pytest.raises(EvaluationError, match="no latent but 1 fires"):
        matched_in_rate(rates, 1, 3)
    with pytest.raises(EncoderError, match="trained on layer 1, not on layer 2"):
        intervene(encoder, axis_sae(layer=1), 2, [0])
    with pytest.raises(EncoderError, match="trained on other, not on linear"):
        intervene(encoder, axis_sae(encoder={"name": "other", "revision": "1"}), 2, [0])
    with pytest.raises(EncoderError, match="encodes pooled clips"):
        intervene(encoder, axis_sae(pooling="pool_then_encode"), 2, [0])


def test_concepts_of_one_clip_or_class_are_left_out_and_their_absence_is_an_error() -> None:
    train = np.ones(5, dtype=bool)
    labels = {"rare": np.array(["a", "a", "b", "c", "c"]), "same": np.array(["x"] * 5)}
    targets = concept_targets(labels, np.ones((5, 1)), ["constant"], train=train)
    assert targets.concepts == (Concept("rare", "a"), Concept("rare", "c"))
    with pytest.raises(EvaluationError, match="two classes of two training clips"):
        concept_targets({"same": labels["same"]}, np.ones((5, 1)), ["constant"], train=train)
    with pytest.raises(EvaluationError, match="training and validation clips"):
        fit_readouts(np.zeros((5, 2)), targets, train=train, valid=~train)


def test_random_latents_have_the_firing_rate_of_the_latent() -> None:
    rates = np.geomspace(1e-4, 0.9, 300)
    drawn = matched_in_rate(rates, 150, 10, seed=1)
    assert len(set(drawn.tolist())) == 10
    assert 150 not in drawn
    assert np.abs(np.log(rates[drawn] / rates[150])).max() < 0.6


def planted_arms(rng: np.random.Generator, groups: int, lead: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return effects of a latent and of a rival in three clips per group; both share the effect of clip and group."""
    number = np.repeat(np.arange(groups), 3)
    shared = rng.normal(size=groups)[number] + 0.5 * rng.normal(size=len(number))
    rival = 1.0 + shared + (0.2 * rng.normal(size=groups))[number] + 0.2 * rng.normal(size=len(number))
    return lead + shared + 1.0 + 0.2 * rng.normal(size=len(number)), rival, number


@pytest.mark.parametrize("groups", [3, 5, 10])
def test_paired_difference_of_two_arms_is_covered_and_found(groups: int) -> None:
    rng = np.random.default_rng(groups)
    covered, paired, separate = np.zeros((3, 800))
    for draw in range(800):
        latent, rival, number = planted_arms(rng, groups, 0.6)
        (difference,) = mean_effects(rival[:, None], latent[:, None], number)
        own, other = (mean_effects(np.zeros((len(number), 1)), one[:, None], number)[0] for one in (latent, rival))
        covered[draw] = difference.low <= 0.6 <= difference.high
        paired[draw], separate[draw] = difference.low > 0, own.low > other.effect
    # the standard error of a share of 95 % is 0.8 %
    assert covered.mean() >= 0.925
    assert paired.mean() > separate.mean() + 0.3


def test_differences_pair_latents_with_rivals_of_the_same_size() -> None:
    arms = [
        Arm(technique, operation, dose, [], None)
        for technique in ("latent_by_output", "random_latent", "leace")
        for operation, dose in (("add", 0.5), ("add", 1.0), ("ablate", 1.0))
        if (technique, operation) != ("leace", "add")
    ]
    effects = {"latent_by_output": 3.0, "random_latent": 1.0, "leace": -1.0}
    outputs = [effects[arm.technique] * arm.dose * np.ones(6) for arm in arms]
    found = pl.DataFrame(paired_differences("x: a", arms, outputs, np.repeat(["g", "h", "i"], 2)), schema=DIFFERENCES)
    assert set(found["technique"]) == {"latent_by_output"}
    shown = {(row["rival"], row["operation"], row["dose"]): row["difference"] for row in found.iter_rows(named=True)}
    assert shown == {
        ("random_latent", "add", 0.5): 1.0,
        ("random_latent", "add", 1.0): 2.0,
        ("random_latent", "ablate", 1.0): 2.0,
        ("leace", "ablate", 1.0): 4.0,
    }
