"""Corpus with known factors, synthesised once for all truth tests."""

from dataclasses import dataclass

import numpy as np
import pytest

from otoscope.corpus.synth import SynthCorpus
from otoscope.corpus.synth.dataset import render_task
from otoscope.metrics.robust_factors import make_robust


@dataclass(frozen=True)
class Sung:
    """True factors of sung clips, raw and robust, with the singer and the split of each clip."""

    factors: np.ndarray
    robust: np.ndarray
    names: tuple[str, ...]
    groups: np.ndarray
    split: np.ndarray


@pytest.fixture(scope="session")
def sung() -> Sung:
    spec = SynthCorpus(singers=14, takes=3, duration_s=0.6)
    tasks = spec.tasks()
    clips = [render_task(task, spec) for task in tasks]
    names = tuple(clips[0].factors)
    factors = np.array([[clip.factors[name] for name in names] for clip in clips])
    groups = np.array([task.who.name for task in tasks])
    singers = sorted(set(groups))
    side = dict(zip(singers, ["train"] * 8 + ["valid"] * 2 + ["test"] * 4, strict=True))
    split = np.array([side[name] for name in groups])
    learned = make_robust(factors, names, train=split == "train")
    kept = [names.index(name) for name in learned.names]
    return Sung(factors[:, kept], learned.apply(factors), learned.names, groups, split)
