"""What no dictionary can be trained on is told by name; before the first one begins, where that can be known."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_json, write_json
from otoscope.config import load_config
from otoscope.errors import TrainingError
from otoscope.pipeline.run import run
from otoscope.sae.checkpoint import CARD
from otoscope.sae.model import load_sae
from tests.runs.test_training import Lines
from tests.support.small_runs import FOLDER, Tiny, write_config, write_voices

TRAIN = {"poolings": ["encode_then_pool", "pool_then_encode"], "layers": [1], "sparsities": [0.9]}

Spoil = Callable[[np.ndarray], None]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    root = tmp_path_factory.mktemp("faults")
    write_voices(root / "voices")
    config = write_config(root / "mine.yaml", tiny("wavlm"), {**FOLDER, "root": str(root / "voices")}, train=TRAIN)
    run(load_config(config), root / "out", until="extract")
    return root


@pytest.fixture
def root(extracted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(extracted, tmp_path / "mine"))


def train(root: Path, *settings: str) -> Lines:
    watch = Lines()
    run(load_config(root / "mine.yaml", settings), root / "out", until="train", progress=watch)
    return watch


def spoil(root: Path, kind: str, change: Spoil) -> None:
    """Change what layer 1 of a store holds, `frames` or `pooled`, in its file of unchanged size."""
    (path,) = (root / "out" / "activations" / "layer_01").glob(f"{kind}-*.safetensors")
    raw = path.read_bytes()
    head = 8 + int.from_bytes(raw[:8], "little")
    values = np.frombuffer(raw[head:], dtype=np.float32).copy()
    change(values.reshape(-1, ActivationStore.open(root / "out" / "activations").width(1)))
    path.write_bytes(raw[:head] + values.tobytes())
    card = root / "out" / "stages" / "extract.json"  # as if the encoder had given these values
    content = read_json(card)
    content["outputs"][path.relative_to(root / "out").as_posix()] = digest(path)
    content["checksum"] = fingerprint(content["inputs"], content["outputs"])
    write_json(card, content)


def filled(value: float, dimensions: slice = slice(None)) -> Spoil:
    def change(rows: np.ndarray) -> None:
        rows[:, dimensions] = value

    return change


def trained(root: Path) -> set[str]:
    return {path.parent.name for path in root.glob(f"out/saes/*/{CARD}")}


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize(
    ("kind", "place"), [("frames", 'frame 2 of clip "{}" at layer 1'), ("pooled", 'clip "{}" at layer 1')]
)
def test_train_names_clip_and_layer_of_non_finite_rows(root: Path, kind: str, place: str, value: float) -> None:
    store = ActivationStore.open(root / "out" / "activations")
    split = dict(pl.read_parquet(root / "out" / "corpus.parquet").select("clip_id", "split").iter_rows())
    clip_id = [clip for clip in store.clip_ids if split[clip] == "train"][4]
    at = store.clip_ids.index(clip_id)
    row = at if kind == "pooled" else int(store.clips["first_offset"][at]) + 2

    def change(rows: np.ndarray) -> None:
        rows[row, 3] = value

    spoil(root, kind, change)
    told = rf"^training row \d+ \({place.format(clip_id)}\) holds NaN or Inf .*; set its clip aside and extract again$"
    with pytest.raises(TrainingError, match=told):
        train(root)


def test_train_warns_of_constant_dimensions(root: Path) -> None:
    spoil(root, "frames", filled(7.0, slice(0, 3)))
    lines = train(root).lines
    width = ActivationStore.open(root / "out" / "activations").width(1)
    assert f"  warning: layer 1, encode_then_pool: 3 of {width} dimensions do not vary; they are centred only" in lines
    assert len(trained(root)) == 2


def test_train_names_clip_and_layer_of_constant_rows(root: Path) -> None:
    spoil(root, "frames", filled(1.0))
    with pytest.raises(
        TrainingError, match=r'^all \d+ training rows equal training row 0 \(frame 0 of clip ".*" at layer 1\)'
    ):
        train(root)


def alone_in_training(root: Path) -> None:
    """Leave one clip in the training split, and every other one of its group out of the corpus."""
    clips = pl.read_parquet(root / "out" / "corpus.parquet").select("path", "group", "split")
    kept = pl.concat([clips.filter(pl.col("split") == "train").head(1), clips.filter(pl.col("split") != "train")])
    kept.write_csv(root / "clips.csv")
    config = yaml.safe_load((root / "mine.yaml").read_text())
    config["corpus"] = {"kind": "manifest", "root": config["corpus"]["root"], "table": "clips.csv"}
    (root / "mine.yaml").write_text(yaml.safe_dump(config))


def test_train_refuses_a_single_row_before_any_training(root: Path) -> None:
    alone_in_training(root)
    with pytest.raises(TrainingError, match=r"^layer01-pooled-default-m64-k6-seed0: 1 training row\(s\): an SAE needs"):
        train(root)
    assert trained(root) == set()
    train(root, "train.poolings=[encode_then_pool]")
    assert trained(root) == {"layer01-frames-default-m64-k6-seed0"}


def test_train_refuses_a_grid_too_large_before_any_training(root: Path) -> None:
    with pytest.raises(
        TrainingError,
        match=r"m90000000-\S+: training 90000000 latents x \d+ dimensions needs .* reduce to about \d+ latents",
    ):
        train(root, "train.latents=[64, 90000000]")
    assert trained(root) == set()


def test_train_repeats_saes_of_another_store(root: Path) -> None:
    """The fingerprint of the activations decides, not the names of files."""
    train(root)
    before = {name: load_sae(root / "out" / "saes" / name).card["activations"] for name in trained(root)}
    train(root, "extract.dtype=float16")
    after = {name: load_sae(root / "out" / "saes" / name).card["activations"] for name in trained(root)}
    assert before.keys() == after.keys()
    assert all(after[name] != before[name] for name in before)
