"""Memory of an extraction against hours of sound.

    python benchmarks/memory.py       # ten files of one hour; writes docs/_static/memory.svg, last line is JSON

Noise is written as FLAC, one hour per file, and encoded by a small HuBERT with random weights: every layer, frames and
pooled clips. The process's resident set is read after every batch. A file is decoded while it is encoded, so memory
should depend neither on the length of a file nor on the number of files.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl
import psutil
import soundfile
import torch
import transformers

from otoscope.activations.extract import iter_extract
from otoscope.corpus.table import Corpus
from otoscope.encoders.catalog import load_encoder

RATE_HZ = 16_000
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "_static" / "memory.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--hours", type=float, default=1.0, help="length of each file")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="otoscope-memory-") as name:
        folder = Path(name)
        encoder = load_encoder(str(write_model(folder / "model")))
        corpus = write_corpus(folder / "sound", options.files, options.hours)
        process, start_s = psutil.Process(), time.perf_counter()
        rows: list[tuple[float, float]] = []
        layers = [layer.index for layer in encoder.layers]
        for progress in iter_extract(corpus, encoder, folder / "store", layers=layers, dtype="float16"):
            rows.append((progress.sound_s / 3600, process.memory_info().rss / 1e6))
        seconds = time.perf_counter() - start_s
        stored_mb = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file()) / 1e6
    # one-time allocations happen during the first file
    table = pl.DataFrame(rows, schema=["hours", "rss_mb"], orient="row")
    steady = table.filter(pl.col("hours") >= options.hours)
    slope = float(np.polyfit(steady["hours"].to_numpy(), steady["rss_mb"].to_numpy(), 1)[0])
    draw(table, options.picture)
    found = {
        "hours": options.files * options.hours,
        "first_hour_mb": round(float(steady["rss_mb"][0])),
        "last_mb": round(float(steady["rss_mb"][-1])),
        "largest_mb": round(float(table["rss_mb"].max())),  # type: ignore[arg-type]
        "mb_per_hour": round(slope, 2),
        "stored_mb": round(stored_mb),
        "seconds": round(seconds, 1),
    }
    print(json.dumps({"bench": "memory", **found}))


def write_model(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    transformers.HubertModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


def write_corpus(folder: Path, files: int, hours: float) -> Corpus:
    folder.mkdir()
    names = [f"hour{i:02d}.flac" for i in range(files)]
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        with soundfile.SoundFile(folder / name, "w", RATE_HZ, 1, format="FLAC", subtype="PCM_16") as file:
            left = round(hours * 3600 * RATE_HZ)
            while left > 0:
                wave = 0.05 * rng.standard_normal(min(left, 60 * RATE_HZ), dtype=np.float32)
                file.write(wave)
                left -= len(wave)
    clips = pl.DataFrame(
        {
            "clip_id": names,
            "path": names,
            "start_s": [0.0] * files,
            "duration_s": [hours * 3600] * files,
            "rate_hz": [RATE_HZ] * files,
            "group": names,
            "split": ["train"] * files,
            "digest": names,
        }
    )
    return Corpus("hours", folder, clips, pl.DataFrame(schema={"path": pl.String, "reason": pl.String}))


def draw(table: pl.DataFrame, path: Path) -> None:
    """Draw at most 400 points of the curve."""
    thin = table.gather_every(max(table.height // 400, 1))
    chart = (
        alt.Chart(thin)
        .mark_line(color="#1c66a8", strokeWidth=1.5)
        .encode(
            alt.X("hours:Q", title="hours of sound encoded"),
            alt.Y("rss_mb:Q", title="resident memory, MB", scale=alt.Scale(zero=True)),
        )
        .properties(width=520, height=180)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(path))


if __name__ == "__main__":
    main()
