"""Methods, provenance and clips set aside: prose from the results, settings from configuration and cards."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from otoscope.config.strict import StrictSettings
from otoscope.corpus.health import health_summary
from otoscope.corpus.table import SPLITS, groups_by_split
from otoscope.formatting import NBSP, comma_list, count, decimal, sparsity
from otoscope.metrics.representation import representation_label
from otoscope.protocols.strict import NAME
from otoscope.report import tables
from otoscope.report.estimates import capitalised, describe_unlearned
from otoscope.report.evidence import (
    CHOOSING,
    coinciding_classes,
    count_folds,
    cross_fit_note,
    readers_of_run,
    scored_on,
    thin_classes,
)
from otoscope.report.figures.probes import POOLINGS
from otoscope.report.results import PREDICTED_R2, REFERENCE_SPARSITY
from otoscope.report.run_data import RunData
from otoscope.report.sections.strict_findings import margin_list
from otoscope.resampling.intervals import fold_overlap


def strict_method(run: RunData) -> str | None:
    """Return a paragraph on the strict protocol; None if it was not run."""
    if NAME not in run.results.protocols:
        return None
    values = (run.config.get("evaluate") or {}).get(NAME)
    settings = StrictSettings.model_validate(values if isinstance(values, Mapping) else {})
    return " ".join([*_reading(settings, run), *_beside(settings, run), *_limits(settings)])


def _reading(settings: StrictSettings, run: RunData) -> list[str]:
    clips, chosen = run.clips, {"sparsity": "the sparsity is the highest within one standard error of the best"}
    if run.results.where(metric=CHOOSING):
        layer = "the compared layer is the one whose dense activations predict factors (or else labels) best"
        chosen = {"layer": layer, **chosen}
    where = "On the left-out groups" if count_folds(clips) == 1 else "On the left-out groups of each fold"
    by = comma_list(sentences for name, sentences in chosen.items() if getattr(settings, name) == "chosen")
    return [
        "Labels are predicted by ridge regression (one output per class), the LASSO or the best few dimensions, "
        "whichever scores highest on left-out groups, and factors by ridge regression and the LASSO. All choices and "
        "penalties are made by leaving out whole training and validation groups, in up to "
        f"{settings.folds} folds. Compared scores are computed on "
        f"{scored_on(clips)}.{f' {where}, {by}.' if by else ''}",
        "A factor's values are replaced by their ranks among the training clips, scaled to a normal shape; factors "
        "dominated by a few clips are dropped, and one of several factors with a rank correlation of at least "
        f"{settings.near_duplicates} is kept. A factor counts as predicted well if its R² is at least "
        f"{settings.min_r2} and above its null, that of all factors together.",
        "Effective dimensions are computed from the weights of a LASSO per factor, over the factors that the layer and "
        "the codes of every seed predict well. Their intervals, and those of the mean R² from few dimensions, leave "
        "out one factor at a time.",
    ]


def _beside(settings: StrictSettings, run: RunData) -> list[str]:
    names = comma_list(representation_label(name) for name in settings.baselines)
    sentences = [f"Baselines: {names}."] if settings.baselines else []
    if settings.seeds > 1:
        errors = "; predicted classes are those of the first seed alone" if run.predictions is not None else ""
        sentences.append(
            f"The compared dictionary is trained with {settings.seeds} seeds; scores of codes are means over seeds, "
            f"and their intervals cover seeds too{errors}."
        )
    return sentences


def _limits(settings: StrictSettings) -> list[str]:
    if not settings.limit_sparsities or not settings.limit_presets:
        return []
    levels = comma_list(sparsity(s) for s in settings.limit_sparsities)
    return [
        f"The sparsity limit is searched at {levels} with the presets {comma_list(settings.limit_presets)}, and at the "
        f"other sparsities that were trained with the same settings. Margins were fixed in advance: {margin_list()}. "
        "otoscope's docs/methods.md gives every formula with its source."
    ]


MAX_SETTING = 80
"""Maximum length of a value to count as a setting; histories and lists of hashes are longer."""
MAX_ALL_ROWS = 20_000
"""Results up to this many rows are offered as one download on the page."""
MAX_CLASSES = 12
"""Maximum number of classes of a label that are named."""
SOURCES = {"truth": "the corpus's own ground truth"}
"""Descriptions of factor sources; other sources are shown by name."""


class Methods(NamedTuple):
    """Paragraphs by topic, settings of the run, settings that dictionaries share and those in which they differ."""

    paragraphs: Sequence[tuple[str, str]]
    run_settings: tables.SettingsTable | None
    shared: tables.SettingsTable | None
    differing: tables.FoldedTable | None


class Provenance(NamedTuple):
    """Origin of everything, and the results as a download; None where they are too many."""

    settings: tables.SettingsTable
    results: int
    download: tables.Download | None


class SetAside(NamedTuple):
    """Clips that could not be used: a sentence, and a table if there are any; lines on suspects, which are used."""

    text: str
    table: tables.FoldedTable | None = None
    suspects: Sequence[str] = ()


def methods(run: RunData) -> Methods:
    """Return the methods: paragraphs, then every setting of the run and of the dictionaries."""
    paragraphs = [(topic, text) for topic, text in _prose(run).items() if text]
    own = tables.settings(_used(run.config), caption="Settings of the run") if run.config else None
    return Methods(paragraphs, own, *_dictionaries(run.cards))


def _used(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the settings of protocols that did not run."""
    settings = config.get("evaluate")
    if not isinstance(settings, Mapping) or not isinstance(settings.get("protocols"), list):
        return dict(config)
    kept = {k: v for k, v in settings.items() if not isinstance(v, Mapping) or k in settings["protocols"]}
    return {**config, "evaluate": kept}


def _prose(run: RunData) -> dict[str, str | None]:
    results = run.results
    alone = run.single_clip_groups or not results.has_r2_within
    null = "above the upper end of its null"
    beyond = f" and {null}" if alone else f", {null} and positive within groups"
    return {
        "Sound": _sound(run),
        "Labels": _labels(run),
        "Encoder": (
            f"{run.encoder}, frozen and in evaluation mode, layers {comma_list(results.layers)}; layer 0 is the "
            "input of the first block, layer i the output of block i. Dense features of a clip are the mean over its "
            "valid frames; padding is excluded."
        ),
        "Dictionaries": _codes(run),
        "Probes": (
            "Multinomial logistic regression on standardised features, fitted on the training groups, its penalty "
            "chosen on the validation groups, scored on the test groups. For the null, labels of the test clips are "
            "permuted within groups, or between groups where each has one class. The mean of this null is what groups "
            "and chance give; an accuracy is stated with its points beyond it."
        )
        if results.labels
        else None,
        "Factors": (
            f"{count(len(results.factors), 'factor')} ({_sources(run)}), each predicted by a LASSO fitted on the "
            "training groups and scored by R² on test groups. Effective dimensions are the exponential of the entropy "
            f"of the absolute weights. A factor counts as predicted if its R² is at least {PREDICTED_R2}{beyond}. "
            f"For the null, {_permuted(run)}, for all factors together: any factor "
            f"counts by chance in at most 5{NBSP}% of runs"
            + (f"; {missing}." if (missing := results.unmeasured_note) else ".")
            + _given(run)
            + (" Factors of voiced frames are unknown in clips without any." if "eGeMAPSv02" in _sources(run) else "")
        )
        if results.factors
        else None,
        "Cross-fitting": _cross_fitting(run),
        "Strict protocol": strict_method(run),
        "Intervals": (
            f"95{NBSP}% jackknife intervals leave out whole groups, with Student's t for the number of groups. With "
            "few groups they are wide; with one group there is no interval. Intervals of accuracies are at least as "
            f"wide as for independent clips. At 0{NBSP}% and 100{NBSP}% leaving out groups changes nothing: the other "
            "end is the binomial bound over single clips, or over groups where each has one class. A dash marks a "
            "number that does not apply."
        ),
        "Choices": _choices(run),
    }


def _given(run: RunData) -> str:
    """Return the covariates of R² as a sentence after a blank; empty without them."""
    if not run.covariates:
        return ""
    own = (run.config.get("evaluate") or {}).get("covariates") is not None
    why = "named by evaluate.covariates" if own else "constant within groups, with several groups per class"
    return (
        f" The table of factors also holds R² given {comma_list(run.covariates)} ({why}): only clips of one class are "
        "compared. Nothing is decided by it."
    )


def _permuted(run: RunData) -> str:
    single = "groups, of one clip each, are permuted"
    return single if run.single_clip_groups else "test clips are permuted within their groups"


def _cross_fitting(run: RunData) -> str | None:
    note = cross_fit_note(run, readers_of_run(run))
    if not note or run.clips is None:
        return None
    factor = decimal(fold_overlap(run.clips["fold"].n_unique()), 2)
    weights = "Weights, effective dimensions and gaps are means over folds"
    if run.per_fold:
        weights = (
            "Weights, effective dimensions and the information of single latents are those of the first fold, because "
            "latents of different dictionaries do not correspond; gaps are means over folds"
        )
    return (
        f"{note}. On this page, test groups are all groups in turn. {weights}. Intervals are {factor} times as wide as "
        "those of one split, because readers of different folds share most of their training groups."
    )


def _sound(run: RunData) -> str:
    name = run.corpus.get("name") or run.name
    if run.clips is None:
        return f"{name}."
    clips = run.clips
    parts: list[str] = []
    for split in ("train", "valid", "test"):
        of = clips.filter(pl.col("split") == split)
        clips_and_groups = f"{count(of.height, 'clip')} of {count(of['group'].n_unique(), 'group')}"
        parts.append(f"{clips_and_groups} to {split}")
    hours = clips["duration_s"].sum() / 3600
    rates = sorted(clips["rate_hz"].unique().to_list())
    return (
        f"{name}: {count(clips.height, 'clip')}, {hours:.2f} hours at {comma_list(rates)} Hz. "
        f"Groups are never shared between splits: {comma_list(parts)}."
    )


def _labels(run: RunData) -> str | None:
    """Return the classes of every predicted label with their clips and groups, most frequent first."""
    if run.clips is None:
        return None
    each: list[str] = []
    cautions: list[str] = []
    noun, is_crossed = str(run.corpus.get("group_noun") or "group"), "fold" in run.clips.columns
    for label in run.labels:
        column = f"label_{label}"
        if column not in run.clips.columns:
            continue
        per_class = (
            run.clips.drop_nulls(column).group_by(column).agg(pl.len().alias("clips"), pl.col("group").n_unique())
        )
        counts = per_class.sort(["clips", column], descending=[True, False]).rows()
        in_split = {name: f": {'/'.join(map(str, of))}" for name, of in groups_by_split(run.clips, label).items()}
        named = [
            f"{name} ({clips}; {groups}{'' if is_crossed else in_split[name]})"
            for name, clips, groups in counts[:MAX_CLASSES]
        ]
        if len(counts) > MAX_CLASSES:
            named.append(f"{len(counts) - MAX_CLASSES} others")
        each.append(f"{label}: {comma_list(named)}")
        if caution := thin_classes(run.clips, label, noun=noun):
            cautions.append(f" Caution: {caution}.")
    shown = [label for label in run.labels if f"label_{label}" in run.clips.columns]
    cautions += [f" Caution: {text}." for text in coinciding_classes(run.clips, shown)]
    splits = "" if is_crossed else f", and those of {'/'.join(SPLITS)}"
    return f"Clips per class; {noun}s{splits}. {'; '.join(each)}.{''.join(cautions)}" if each else None


def _codes(run: RunData) -> str | None:
    results = run.results
    if not results.sparsities:
        return None
    rows = results.of(["explained_variance", "probe_accuracy", "factor_r2"], "sae")
    budgets = rows.select("sparsity", "k").drop_nulls().unique().sort("sparsity")
    sparsities = [f"{sparsity(s)} (k={k})" for s, k in budgets.iter_rows()]
    pooling = POOLINGS.get(results.pooling)
    noun = "sparsity" if len(sparsities) == 1 else "sparsities"
    not_learned = describe_unlearned(run.cards, named=MOST_NAMED)
    return (
        f"Sparse autoencoders with {results.latents} latents at {noun} {comma_list(sparsities)}"
        + (f"; {pooling}" if pooling else "")
        + f". {_training_settings(run)}{not_learned}{' ' if not_learned else ''}Seed {results.seed}."
    )


def _training_settings(run: RunData) -> str:
    presets = dict.fromkeys(str(card["preset"]) for card in run.cards.values() if "preset" in card)
    if (shown := run.results.preset) is not None:
        presets = {shown: None, **presets}
    if len(presets) > 1:
        first, *others = presets
        return f"Trained with the preset {first} (all settings below); the full tables also hold {comma_list(others)}. "
    return f"Trained with the preset {comma_list(presets)} (all settings below). " if presets else ""


MOST_NAMED = 4
"""Dictionaries that a sentence lists."""


def _choices(run: RunData) -> str:
    results, folds = run.results, count_folds(run.clips)
    best = results.best_layer
    sentences = [f"Where a single dense layer is shown, it is layer {best.layer}: {best.because(folds)}."]
    if results.reference_sparsity is not None:
        codes = results.codes_layer
        sentences.append(f"Where codes of a single layer are shown, it is layer {codes.layer}: {codes.because(folds)}.")
        at, wanted = sparsity(results.reference_sparsity), sparsity(REFERENCE_SPARSITY)
        nearest = "" if at == wanted else f", the nearest trained to {wanted}"
        sentences.append(f"Where a single sparsity is shown, it is {at}{nearest}.")
    if others := results.protocols[1:]:
        names = ["“Strict protocol”", *(["“Errors by class and group”"] if run.predictions is not None else [])]
        shows = f"section{'s' if names[1:] else ''} {comma_list(names)} show{'' if names[1:] else 's'}"
        strictly = f"; the {shows} the protocol strict" if "strict" in others else ""
        more = [name for name in others if name != "strict"]
        also = f"; the results also hold {comma_list(more)}" if more else ""
        sentences.append(f"Charts and tables show the protocol {results.protocol}{strictly}{also}.")
    if len(results.seeds) > 1:
        sentences.append(
            f"Charts show seed {results.seed}; the results also hold seeds {comma_list(results.seeds[1:])}."
        )
    if hidden := results.not_shown:
        each = [f"{n} latents ({', '.join(filter(None, (recipe, pooling)))})" for pooling, n, recipe in hidden]
        sentences.append(f"Dictionaries in the results that no chart of this protocol shows: {comma_list(each)}.")
    return " ".join(sentences)


def _sources(run: RunData) -> str:
    listed = run.factors.get("factors", [])
    sources = dict.fromkeys(str(f.get("source") or "unknown") for f in listed if f["name"] in set(run.results.factors))
    return f"from {comma_list(SOURCES.get(s, s) for s in sources)}" if sources else "source not recorded"


def _dictionaries(
    cards: Mapping[str, Mapping[str, Any]],
) -> tuple[tables.SettingsTable | None, tables.FoldedTable | None]:
    """Return the settings that all dictionaries share, and those in which they differ."""
    if not cards:
        return None, None
    flat = {name: tables.flattened(card) for name, card in cards.items()}
    keys = list(dict.fromkeys(k for card in flat.values() for k in card))
    spelled = {k: {name: tables.spelled(card.get(k)) for name, card in flat.items()} for k in keys}
    short = {k: v for k, v in spelled.items() if max(map(len, v.values())) <= MAX_SETTING}
    same = {k: next(iter(v.values())) for k, v in short.items() if len(set(v.values())) == 1}
    differing = {k: v for k, v in short.items() if k not in same and v != {name: name for name in flat}}
    table = pl.DataFrame(
        {"dictionary": list(flat), **{k: [v[name] for name in flat] for k, v in differing.items()}},
        schema={"dictionary": pl.String(), **dict.fromkeys(differing, pl.String())},
    )
    return (
        tables.settings(same, caption="Settings that all dictionaries share"),
        tables.folded("Settings in which dictionaries differ", table, "dictionaries"),
    )


def provenance(run: RunData) -> Provenance:
    """Return fingerprints, versions, revisions and licences, and the results as a download."""
    corpus = {k: run.corpus[k] for k in ("name", "licence", "citation", "clips", "fingerprint") if run.corpus.get(k)}
    first: Mapping[str, Any] = next(iter(run.cards.values()), {})
    revision = _find(first, "revision") or run.config.get("revision")
    encoder = {"name": run.encoder, "revision": revision}
    known: dict[str, Any] = {
        "corpus": corpus,
        "encoder": {**encoder, **_picked(run.activations, ("revision", "rate_hz", "fingerprint"))},
        "factors": _picked(run.factors, ("fingerprint", "source", "licence")),
        "seed": comma_list(run.results.seeds) or None,
        "versions": first.get("versions") or (run.top_clips.card.get("versions") if run.top_clips else None) or {},
    }
    rows = run.results.rows
    text = f"Download all {rows.height:,} results as CSV"
    return Provenance(
        settings=tables.settings({k: v for k, v in known.items() if v}, caption="Provenance"),
        results=rows.height,
        download=tables.csv_download(rows, "results", text) if rows.height <= MAX_ALL_ROWS else None,
    )


def set_aside(run: RunData) -> SetAside:
    """Return the clips that could not be used, each with its reason, and what else is unusual about the sound."""
    if run.set_aside is None:
        return SetAside("This run folder holds no table of clips set aside.")
    suspects: list[str] = []
    if run.suspects is not None and run.clips is not None:
        suspects = [f"{capitalised(line)}." for line in health_summary(run.suspects, run.clips, lengths=run.recorded)]
    if run.set_aside.is_empty():
        return SetAside("No clip was set aside: every file could be decoded.", suspects=suspects)
    clips = run.clips.height if run.clips is not None else 0
    verb = "is" if run.set_aside.height == 1 else "are"
    text = f"{count(run.set_aside.height, 'file')} could not be used and {verb} excluded from all numbers"
    usable = f"; {count(clips, 'clip')} could be used." if clips else "."
    return SetAside(text + usable, tables.folded("Files set aside", run.set_aside, "set-aside"), suspects)


def _picked(card: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    flat = tables.flattened(card)
    return {k.rsplit(".", 1)[-1]: v for k, v in flat.items() if k.rsplit(".", 1)[-1] in keys}


def _find(card: Mapping[str, Any], key: str) -> Any:
    return next((v for k, v in tables.flattened(card).items() if k.rsplit(".", 1)[-1] == key), None)
