"""Damaged configurations: valid, or refused with a ConfigError; never a traceback, never slow."""

from pathlib import Path

import pytest

from otoscope.config import load_config
from otoscope.errors import ConfigError
from tests.support.fuzzing import limits, wanted_mutations
from tests.support.mutated_text import mutated_texts

MAX_MESSAGE = 2000
"""Characters of a readable message."""

CONFIG = """name: mine
model: ./tiny
corpus:
  kind: folder
  root: ${VOICES:-voices}
  pattern: '(?P<label_vowel>[a-z]+)/(?P<group>[a-z]+)_'
  names: {vowel: {'01': low, '02': high}}
splits: {seed: 1, test_groups: ['3', ann]}
extract: {layers: [0, 3], segment_s: 0.5, store: ~/acts}
train:
  presets: {mine: {based_on: default, epochs: 2.5, sparsifier: {name: jumprelu}}}
  preset: [default, mine]
  latents: [128, 256]
  sparsities: [0.9]
evaluate: {protocols: [held_out, strict], strict: {layer: 3, sizes: [1, 2]}}
report: {title: Größe}
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_configuration_is_loaded_or_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "mine.yaml"
    used = 0
    for data in mutated_texts(CONFIG, times=wanted_mutations(400) // 4, seed=seed):
        path.write_bytes(data)
        message = ""
        try:
            with limits(seconds=5):
                load_config(path)
            used += 1
        except ConfigError as error:
            message = str(error)
        assert len(message) < MAX_MESSAGE, message
    assert used > 2


@pytest.mark.parametrize("seed", range(2))
def test_a_mutated_override_is_used_or_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    for override in (
        "splits.test_groups=['3', ann]",
        "train.presets.mine.epochs=2",
        "corpus.pattern=(?P<group>[a-z]+)_",
    ):
        for data in mutated_texts(override, times=40, seed=seed):
            message = ""
            try:
                load_config(path, [data.decode("utf-8", "surrogateescape")])
            except ConfigError as error:
                message = str(error)
            assert len(message) < MAX_MESSAGE, message
