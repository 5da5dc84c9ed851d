"""A run on recordings with a speaker per channel: every stage reads the channel of the clip."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from otoscope.config import load_config
from otoscope.pipeline.run import run
from tests.support.small_runs import RATE_HZ, VOICES, Tiny, tone, write_config


@pytest.mark.slow
def test_run_reads_the_channel_of_each_clip_in_every_stage(tmp_path: Path, tiny: Tiny) -> None:
    rows = ["path,channel,group,label_octave"]
    for v, voice in enumerate(VOICES):
        for take in range(3):
            channels = [tone(hz * (1 + 0.03 * v), tilt=v, seed=take) for hz in (220.0, 440.0)]
            (tmp_path / "talks").mkdir(exist_ok=True)
            soundfile.write(tmp_path / "talks" / f"{voice}{take}.wav", np.stack(channels, axis=1), RATE_HZ)
            rows += [f"{voice}{take}.wav,{channel},{voice},{octave}" for channel, octave in ((1, "low"), (2, "high"))]
    (tmp_path / "talks" / "talks.csv").write_text("\n".join(rows))
    corpus = {"kind": "manifest", "table": "talks/talks.csv"}
    settings = {"train": {"sparsities": [0.75], "layers": [1]}, "factors": {"egemaps": True}}
    config = load_config(write_config(tmp_path / "mine.yaml", tiny("wavlm"), corpus, **settings))
    summary = run(config, tmp_path / "out")
    assert summary.clips == 30
    pitch = pl.read_parquet(tmp_path / "out" / "factors.parquet").select(
        pl.col("clip_id").str.contains("#channel2").alias("high"), semitones="F0semitoneFrom27.5Hz_sma3nz_amean"
    )
    low, high = (pitch.filter(pl.col("high") == is_high)["semitones"].mean() for is_high in (False, True))
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert high - low == pytest.approx(12, abs=1)
    probes = pl.read_parquet(summary.results or "").filter(metric="probe_accuracy", target="octave", split="test")
    assert float(probes["value"].to_numpy().max()) > 0.7
