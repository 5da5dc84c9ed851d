"""Cards in the gallery: sentence, score beside controls, timing and response curves."""

import math
from pathlib import Path

import polars as pl
import pytest

from otoscope.artifacts import read_table, write_table
from otoscope.explain.annotated_labels import UNIT_COLUMNS
from otoscope.explain.card_tables import CARDS, MEASUREMENTS, RESPONSES
from otoscope.explain.firing import EXAMPLES
from otoscope.report import write_report
from otoscope.report.figures.latents import cards
from otoscope.report.sections.latent_cards import card_texts
from tests.support.finished_run import make_run
from tests.support.page_reader import read_page


def write_cards(folder: Path, latents: list[int], **changed: object) -> None:
    card = {
        "sentence": "Fires in 4 % of frames: pitch 190 to 260 Hz <b>.",
        **dict.fromkeys(CARDS, 0.5),
        "classes": "[]",
        "silent": 0.04,
        "auroc": 0.91,
        "low": 0.85,
        "high": 0.95,
        "beats_controls": True,
        "lead": 0.07,
        "lead_low": 0.02,
        "lead_high": 0.12,
        "groups": 3,
        "rows": 100,
        "family": 12,
        "onsets": 12,
        "lag_onsets": 9,
        "lag_s": 0.02,
        "duration_s": 0.06,
        **changed,
    }
    card["sentence"] = "Fires in 4 % of frames: pitch 190 to 260 Hz <b>."
    write_table(
        folder / "explain" / "cards.parquet", pl.DataFrame([{**card, "latent": n} for n in latents], schema=CARDS)
    )
    rows = []
    for latent in latents:
        for name, r2, responds in (("f0_semitones", 0.4, True), ("level_db", 0.6, True), ("f1_hz", 0.9, False)):
            for number in range(4):
                common = {"rows": 100, "groups": 3, "r2": r2, "null_high": 0.01, "band_r2": 0.2, "responds": responds}
                means = {"mean": float(number), "low": math.nan if number == 2 else number - 0.2, "high": number + 0.2}
                place = {"latent": latent, "descriptor": name, "bin": number, "median": 24.0 + 4 * number}
                rows.append({**dict.fromkeys(RESPONSES), **common, **means, **place})
    write_table(folder / "explain" / "responses.parquet", pl.DataFrame(rows, schema=RESPONSES))


def test_gallery_shows_sentence_score_controls_and_responses(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    latents = read_table(folder / "explain" / "top_clips.parquet")["latent"].unique(maintain_order=True).to_list()
    write_cards(folder, latents[:2])
    page = read_page(write_report(folder, figures=False).read_text(encoding="utf-8"))
    said = page.section("gallery").replace("\u00a0", " ")
    assert (
        said.count("Fires in 4 % of frames: pitch 190 to 260 Hz <b>.") == 2 + 2
    )  # cards, and the table of their scores
    assert "AUROC 0.91 within 3 test groups, 95 % interval 0.85 to 0.95" in said
    assert "firing moved to other clips, over 12 cards together, up to 0.50, cards of other latents 0.50" in said
    assert "the level alone 0.50; difference from the level alone in the same groups 0.07" in said
    assert "0.07, 95 % interval 0.02 to 0.12)" in said
    assert "In time: fires for 60 ms at a time (median); rises 20 ms after sound onsets (9 of 12 onsets last" in said
    assert "does not beat" not in said
    plots = [tag.attributes["aria-label"] or "" for tag in page.all("svg", role="img")]
    assert len(plots) == 4
    assert plots[0].startswith("Mean activation against level (dB), from 24 to 36; R² 0.60")  # the best first
    assert "pitch (Hz), from 110 to 220" in plots[1]
    assert page.mistakes == []


def test_gallery_states_firing_in_silence_and_for_other_classes_beside_the_sentence(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    top = read_table(folder / "explain" / "top_clips.parquet")
    of_class = top.with_columns(label=pl.lit("technique"), factor=pl.lit("belt"))
    write_table(folder / "explain" / "top_clips.parquet", of_class)
    write_cards(folder, top["latent"].unique().to_list(), silent=0.42, silence=0.1, classes='["technique=trill"]')
    page = read_page(write_report(folder, figures=False).read_text(encoding="utf-8"))
    for section in ("gallery", "listen"):
        said = page.section(section).replace("\u00a0", " ")
        assert "Counted in frames, it does not fire for this class alone." in said
        assert "42 % of the frames in which it fires are silent (40 dB or more below the loudest of their clip)" in said
        assert "against 10 % of all frames." in said
    write_cards(folder, top["latent"].unique().to_list(), silent=0.1, silence=0.3)
    assert "are silent" not in read_page(write_report(folder, figures=False).read_text("utf-8")).section("gallery")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "Fires in 4 % of frames: pitch 190 to 260 Hz <b>."),
        (
            {"beats_controls": False},
            "Fires in 4 % of frames; the conditions tried (voicing, ranges of quantities measured in the frame, "
            "classes of clips) do not predict them better than the controls of its card.",
        ),
        (
            {"beats_controls": False, "auroc": math.nan},
            "Fires in 4 % of frames; no test group can show whether a condition predicts them.",
        ),
        ({"groups": 2}, "Fires in 4 % of frames; too few test groups to show whether a condition predicts them."),
    ],
)
def test_backed_sentence_has_conditions_only_if_the_card_beats_its_controls(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    write_cards(tmp_path, [7], **changed)
    assert card_texts(tmp_path)[7].backed == said


@pytest.mark.parametrize("beats", [True, False])
def test_first_screen_and_tally_follow_the_controls(tmp_path: Path, beats: bool) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    latents = read_table(folder / "explain" / "top_clips.parquet")["latent"].unique(maintain_order=True).to_list()
    write_cards(folder, latents[:2], beats_controls=beats)
    page = read_page(write_report(folder, figures=False).read_text(encoding="utf-8"))
    assert ("Fires in 4 % of frames: pitch" in page.section("listen")) == beats
    assert len(page.all("p", **{"class": "sentence"})) == (2 if beats else 0)  # bold
    for section in ("gallery", "listen"):
        assert f"{2 if beats else 0} of 2 scored cards beat their controls." in page.section(section)
    assert all(f"{term}: " in page.section("summary") for term in ("beats its controls", "odd frame out"))


def test_tally_counts_cards_without_a_score_apart(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    latents = read_table(folder / "explain" / "top_clips.parquet")["latent"].unique(maintain_order=True).to_list()
    write_cards(folder, latents[:3])
    written = read_table(folder / "explain" / "cards.parquet")
    # without a condition, all frames have the same score
    unscored = pl.when(pl.col("latent") == latents[0]).then(0.5).otherwise(pl.col("auroc", "low", "high"))
    write_table(folder / "explain" / "cards.parquet", written.with_columns(unscored.name.keep()))
    page = read_page(write_report(folder, figures=False).read_text(encoding="utf-8"))
    said = "2 of 2 scored cards beat their controls (3 cards in all, 1 without a score to compare)."
    assert said in page.section("gallery")
    assert said in page.section("listen")


@pytest.mark.parametrize(
    ("level", "others", "named"),
    [(0.91, 0.84, "cards of other latents"), (0.84, 0.5, "the level alone"), (0.84, math.nan, "the level alone")],
)
def test_card_names_the_control_of_the_difference_that_it_states(
    tmp_path: Path, level: float, others: float, named: str
) -> None:
    write_cards(tmp_path, [7], level=level, others=others, lead=0.07)
    assert f"; difference from {named} in the same groups 0.07, " in card_texts(tmp_path)[7].score


def test_cards_point_to_annotated_labels_that_their_latent_follows_beyond_chance(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    latents = read_table(folder / "explain" / "top_clips.parquet")["latent"].unique(maintain_order=True).to_list()
    write_cards(folder, latents[:1], beats_controls=False)
    common = dict.fromkeys(UNIT_COLUMNS) | {"unit": "latent", "number": latents[0], "groups": 3, "f1_null_high": 0.53}
    rows = [
        {**common, "tier": "vowel", "label": "a", "f1": 0.89, "p_value": 1 / 21},
        {**common, "tier": "onset", "label": "onset", "f1": 0.534, "p_value": 1 / 21},
        {**common, "tier": "vowel", "label": "e", "f1": 0.51, "p_value": 0.3},
        {**common, "tier": "vowel", "label": "i", "f1": 0.8, "p_value": 1 / 21, "groups": 2},
        {**common, "tier": "vowel", "label": "o", "f1": 0.8, "p_value": 1 / 21, "unit": "dense"},
    ]
    scores = pl.DataFrame(rows, schema=UNIT_COLUMNS)
    write_table(folder / "explain" / "annotated_labels.parquet", scores)
    follows = (
        "Of the annotated labels (below), it follows vowel a (F1 0.89, chance up to 0.53) and onset (F1 0.534, chance "
        "up to 0.530) in the frames of test groups."
    )
    assert card_texts(folder)[latents[0]].annotated == follows
    write_table(folder / "explain" / "annotated_labels.parquet", scores.filter(pl.col("p_value") > 0.05))
    assert card_texts(folder)[latents[0]].annotated == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beats_controls": False}, "This card does not beat its controls. Frames predicted"),
        ({"auroc": math.nan}, "The card has no blind score"),
        ({"groups": 2}, "2 test groups: too few to compare the card with its controls. Frames predicted"),
        ({"groups": 2}, "AUROC 0.91 within 2 test groups (firing moved"),
        ({"low": math.nan, "high": math.nan}, "within 3 test groups (firing moved"),
    ],
)
def test_card_says_plainly_that_it_is_not_backed(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    write_cards(tmp_path, [7], **changed)
    assert card_texts(tmp_path)[7].score.startswith(said) or said in card_texts(tmp_path)[7].score


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "Fires in 4 % of frames: pitch 190 to 260 Hz <b>."),
        ({"beats_controls": False}, "Fires in 4 % of frames. Not confirmed: pitch 190 to 260 Hz <b>."),
        ({"groups": 2}, "Fires in 4 % of frames. Not confirmed: pitch 190 to 260 Hz <b>."),
        ({"auroc": 0.5, "low": 0.5, "high": 0.5, "beats_controls": False}, "Fires in 4 % of frames: pitch 190 to 260"),
    ],
)
def test_card_marks_conditions_that_test_groups_do_not_confirm(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    write_cards(tmp_path, [7], **changed)
    assert card_texts(tmp_path)[7].sentence.startswith(said)


def test_card_names_the_controls_that_predict_as_much_where_test_groups_are_too_few(tmp_path: Path) -> None:
    write_cards(tmp_path, [7], groups=2, auroc=0.45, permuted_high=0.55, others=0.4, level=0.61)
    said = "compare the card with its controls. On these clips it predicts no more than firing moved to other clips and"
    assert f"{said} the level alone. Frames predicted" in card_texts(tmp_path)[7].score


def test_cards_of_two_test_groups_are_not_counted_among_those_that_beat_their_controls(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    latents = read_table(folder / "explain" / "top_clips.parquet")["latent"].unique(maintain_order=True).to_list()
    write_cards(folder, latents[:2], groups=2)
    page = read_page(write_report(folder, figures=False).read_text(encoding="utf-8"))
    assert "controls." not in page.section("gallery").split("How latents were chosen")[0]
    assert "Fires in 4 % of frames: pitch" not in page.section("overview")


def test_cards_whose_null_reaches_the_largest_score_are_not_compared(tmp_path: Path) -> None:
    write_cards(tmp_path, [7], permuted_high=1.0, beats_controls=False)
    text = card_texts(tmp_path)[7]
    assert text.score.startswith("Too few test clips to compare the card with its controls. ")
    assert text.backed == "Fires in 4 % of frames; too few test clips to show whether a condition predicts them."
    assert not text.compared


def test_gallery_says_once_which_measured_quantities_name_no_latent(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    latents = read_table(folder / "explain" / "top_clips.parquet")["latent"].unique(maintain_order=True).to_list()
    write_cards(folder, latents[:2])
    rows = [
        ("f0_semitones", "f0_mean_hz", 0.9, True),
        ("f2_hz", "f2_hz", 0.04, False),
        ("f3_hz", "f3_hz", -0.08, False),
    ]
    write_table(folder / "explain" / "measurements.parquet", pl.DataFrame(rows, schema=MEASUREMENTS, orient="row"))
    said = read_page(write_report(folder, figures=False).read_text(encoding="utf-8")).section("gallery")
    assert said.count("openSMILE's values of F2 and F3 do not follow the true ones on these clips") == 1
    assert "s 0.04 and −0.08), so no title, card, response curve, intervention or erasure rests on them." in said
    assert "high voices" not in said


def test_gallery_has_a_caveat_where_formants_name_a_latent(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    latents = read_table(folder / "explain" / "top_clips.parquet")["latent"].unique(maintain_order=True).to_list()
    write_cards(folder, latents[:2])
    path = folder / "explain" / "responses.parquet"
    write_table(path, read_table(path).with_columns(responds=pl.lit(value=True)))
    said = read_page(write_report(folder, figures=False).read_text(encoding="utf-8")).section("gallery")
    assert said.count("linear prediction is unreliable for high voices") == 1
    assert "openSMILE's F1 (Hz)" in said


def test_cards_name_typical_frames_and_near_misses(tmp_path: Path) -> None:
    write_cards(tmp_path, [7])
    frames = [(7, "top", None, 0.9), (7, "quantile", 0.9, 0.75), (7, "quantile", 0.1, 0.05), (8, "quantile", 0.5, 0.5)]
    rows = [(*one[:3], "a<b>.wav", "g", 3, 0.5, 0.52, one[3]) for one in frames]
    write_table(tmp_path / "explain" / "examples.parquet", pl.DataFrame(rows, schema=EXAMPLES, orient="row"))
    miss = (7, "near_miss", None, "c.wav", "g", 3, 1.0, 1.02, 0.0)
    write_table(tmp_path / "explain" / "near_misses.parquet", pl.DataFrame([miss], schema=EXAMPLES, orient="row"))
    assert card_texts(tmp_path)[7].examples.replace("\u00a0", " ") == (
        "Typical frames: a<b>.wav at 0.50 s (90 % quantile, 0.75) and a<b>.wav at 0.50 s (10 % quantile, 0.05). "
        "Silent although the spectrum is close: c.wav at 1.00 s."
    )


def test_timing_leaves_out_what_is_unknown(tmp_path: Path) -> None:
    write_cards(tmp_path, [7], lag_s=-0.04, duration_s=math.nan, syllable_share=math.nan)
    assert (
        card_texts(tmp_path)[7].timing
        == "In time: rises 40 ms before sound onsets (9 of 12 onsets last to its maximum; a frame also depends "
        "on the sound after it)."
    )
    write_cards(tmp_path, [7], lag_s=math.nan, duration_s=math.nan, syllable_share=math.nan)
    assert card_texts(tmp_path)[7].timing == ""


def test_a_run_without_cards_has_no_texts(tmp_path: Path) -> None:
    assert card_texts(tmp_path) == {}


def test_odd_frames_found_stand_beside_those_of_all_cards(tmp_path: Path) -> None:
    write_cards(tmp_path, [7, 8, 9])
    path = tmp_path / "explain" / "cards.parquet"
    for rates, said in (
        ([0.4, 0.88, math.nan], "in 40 % of trials (guessing 20 %; all cards here 40 % to 88 %)."),
        ([0.4, math.nan, math.nan], "in 40 % of trials (guessing 20 %)."),
    ):
        write_table(path, read_table(path).with_columns(intruder_logmel=pl.Series(rates)))
        assert card_texts(tmp_path)[7].score.replace("\u00a0", " ").endswith(said)
        assert "Odd frame" not in card_texts(tmp_path)[9].score


def test_a_card_without_conditions_predicts_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    write_cards(folder, [100], auroc=0.5, low=0.5, high=0.5, beats_controls=False)
    assert card_texts(folder)[100].score == "The card states no condition, so it predicts nothing."
    rows = [read_table(folder / "explain" / "cards.parquet")]
    for groups in (3, 2):
        write_cards(folder, [101], groups=groups)
        rows.append(read_table(folder / "explain" / "cards.parquet"))
    figure = cards(pl.concat(rows))
    assert figure is not None
    assert figure.table["auroc"].to_list() == [None, 0.91, 0.91]
    assert figure.table["low"].to_list() == [None, 0.85, None]
    write_cards(folder, [100], auroc=0.5, low=0.4, high=0.6, beats_controls=False)
    assert card_texts(folder)[100].score.startswith("This card does not beat its controls.")


def test_response_curves_that_explain_next_to_nothing_are_not_drawn(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    write_cards(folder, [100])
    assert len(card_texts(folder)[100].responses) == 2
    rows = read_table(folder / "explain" / "responses.parquet")
    weak = pl.when(pl.col("descriptor") == "level_db").then(0.004).otherwise(pl.col("r2")).alias("r2")
    write_table(folder / "explain" / "responses.parquet", rows.with_columns(weak))
    assert [one.title.split(" (")[0] for one in card_texts(folder)[100].responses] == ["pitch"]


def test_chart_of_cards_counts_those_below_their_controls_and_shows_all_of_them(tmp_path: Path) -> None:
    write_cards(tmp_path, list(range(14)), groups=2, permuted_high=0.55, level=0.7)
    rows = read_table(tmp_path / "explain" / "cards.parquet")
    scores = pl.Series("auroc", [0.5, 0.54, 0.6, *[0.8] * 10, math.nan])
    figure = cards(rows.with_columns(scores))
    assert figure is not None
    assert figure.caption.startswith(
        "Of 13 scored cards, 3 predict less than the level alone, 2 no more than firing moved to other clips; too few "
        "test groups or clips to compare any with its controls. No score without a condition, or in no test group: "
        "1 card."
    )
    assert "best" not in figure.title
    assert figure.height == 26 * 13
    assert figure.table["sentence"].str.contains("Not confirmed: pitch").all()
    compared = cards(rows.with_columns(scores, groups=pl.lit(3)))
    assert compared is not None
    assert "moved to other clips; 13 beat all controls." in compared.caption
