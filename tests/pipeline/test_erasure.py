"""Erasure of concepts from a layer with planted truth: two labels, and the group, each on latents of its own."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from otoscope.activations.extract import extract
from otoscope.artifacts import digest
from otoscope.config import RunConfig
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.explain import write_activation_index
from otoscope.pipeline.changed_layer import ChangedLayer
from otoscope.pipeline.erasure import ErasureTables, erasure_tables
from otoscope.runs.context import Context, LazyEncoder
from otoscope.runs.folder import RunFolder
from otoscope.runs.inputs import Clips
from otoscope.runs.progress import SilentReporter
from otoscope.runs.training import GridMember
from tests.support.planted_encoder import RATE_HZ, WIDTH, axis_sae, linear_encoder

GROUPS, FRAMES = 6, 20
MEMBER = GridMember(0, "encode_then_pool", "default", 2 * WIDTH, 0.5, 0)


class Loaded(LazyEncoder):
    """An encoder that is not loaded from a folder."""

    def load(self) -> Encoder:
        return linear_encoder()


def planted_setting(folder: Path, *, strength: float) -> ChangedLayer:
    """Return clips with label `x` on latent 0, label `y` on latent 1, and group i on latent 2 + i."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    labels: dict[str, list[str]] = {"x": [], "y": []}
    (folder / "sound").mkdir()
    for group in range(GROUPS):
        for x in "ab":
            for y in "cd":
                for take in range(5):
                    frames = 0.05 * rng.standard_normal((FRAMES, WIDTH))
                    frames[:, :2] += 0.3 * np.array([x == "a", y == "c"])
                    frames[:, 2 + group] += strength
                    name = f"g{group}_{x}{y}{take}"
                    soundfile.write(folder / "sound" / f"{name}.wav", frames.reshape(-1), RATE_HZ, subtype="FLOAT")
                    split = {0: "valid", 1: "test", 2: "test", 3: "test"}.get(group, "train")
                    sound = {"path": f"{name}.wav", "digest": digest(folder / "sound" / f"{name}.wav")}
                    rows.append({"clip_id": name, **sound, "group": f"g{group}", "split": split})
                    labels["x"].append(x)
                    labels["y"].append(y)
    seconds = FRAMES * WIDTH / RATE_HZ
    table = pl.DataFrame(rows).with_columns(start_s=0.0, duration_s=seconds, rate_hz=pl.lit(RATE_HZ))
    corpus = Corpus("planted", folder / "sound", table, pl.DataFrame(schema={"path": pl.String, "reason": pl.String}))
    store = extract(corpus, linear_encoder(), folder / "store", layers=[0, 1, 2], progress=False)
    sae = axis_sae()
    config = RunConfig.model_validate(
        {"name": "planted", "corpus": {"kind": "synth"}, "explain": {"erasure_clips": 60, "intervention_clips": 4}}
    )
    run = Context(config, RunFolder(folder), SilentReporter(), Loaded(config))
    sae.save_pretrained(run.folder.saes / MEMBER.sae_id)
    corpus = corpus.select(store.clip_ids)
    known = dict(zip(table["clip_id"], zip(labels["x"], labels["y"], strict=True), strict=True))
    classes = [known[clip] for clip in store.clip_ids]
    clips = Clips(
        split=corpus.clips["split"].to_numpy(),
        groups=corpus.clips["group"].to_numpy(),
        labels={"x": np.array([x for x, _ in classes]), "y": np.array([y for _, y in classes])},
        factors=np.zeros((len(classes), 0)),
        factor_names=(),
    )
    return ChangedLayer(run, MEMBER, write_activation_index(folder / "index", store, sae, 0), store, corpus, clips)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> ErasureTables:
    return erasure_tables(planted_setting(tmp_path_factory.mktemp("planted"), strength=0.3))


def test_the_group_is_read_on_held_out_clips_of_all_groups(tables: ErasureTables) -> None:
    concepts = {row["kind"]: row for row in tables.erasure_concepts.iter_rows(named=True)}
    group = concepts["group"]
    assert group["read"]
    assert group["readout_r"] > 0.9
    assert group["gain"] == pytest.approx(1.0, abs=0.15)
    assert (group["clips"], group["groups"]) == (GROUPS * 4, GROUPS)  # a fifth of 20 clips each
    assert concepts["x"]["groups"] == concepts["y"]["groups"] == 3  # those of the test split


def test_erasing_the_group_takes_its_own_readout_and_no_label(tables: ErasureTables) -> None:
    own = tables.erasure.filter(technique="latents")
    names = own["erased"].unique(maintain_order=True).to_list()
    assert names == ["x: a", "y: c", "group: all"]
    lost = own.pivot(on="readout", index="erased", values="lost", maintain_order=True).select(names).to_numpy()
    assert np.diag(lost) == pytest.approx(np.ones(3), abs=0.15)
    assert lost[2, :2] == pytest.approx(np.zeros(2), abs=0.15)
    # the eight latents of a label hold the one that is planted and seven others of 24, some of a group
    assert lost[:2].max(where=~np.eye(3, dtype=bool)[:2], initial=0.0) < 0.35
    group = own.filter(erased="group: all", readout="group: all").row(0, named=True)
    assert group["low"] > 0.8
    assert group["groups"] == GROUPS


def test_dominance_counts_the_group_beside_the_labels(tables: ErasureTables) -> None:
    every = tables.erasure_dominance.filter(scope="all")
    assert every["concepts"].unique().to_list() == [3]
    assert every["groups"].unique().to_list() == [3]
    low = dict(every.select("technique", "low").iter_rows())
    assert low["latents"] > 0.3
    assert low["latents - random_latents"] > 0.3
    assert low["leace"] > 0.9


def test_a_group_without_traces_has_row_and_column_and_no_part_in_the_dominance(tmp_path: Path) -> None:
    tables = erasure_tables(planted_setting(tmp_path, strength=0.0))
    group = tables.erasure_concepts.filter(kind="group").row(0, named=True)
    assert not group["read"]
    assert group["erased"]
    assert "group: all" in set(tables.erasure["readout"]) & set(tables.erasure["erased"])
    assert tables.erasure_dominance.filter(scope="all")["concepts"].unique().to_list() == [2]
