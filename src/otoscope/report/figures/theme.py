"""Colours of representations and layers, each in a light and a dark form, and the theme of all charts."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from otoscope.metrics.representation import REPRESENTATIONS, Colour

FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"


OTHER = Colour("#a8326b", "#f08ab8")
"""Baselines without a colour of their own."""


def _colour(representation: str) -> Colour:
    colour = REPRESENTATIONS[representation].colour
    return colour if colour is not None else OTHER


DENSE, SAE, SAE_POOLED, NULL = map(_colour, ("dense", "sae", "pca", "permuted"))
FACTOR = Colour("#b9c3cf", "#4a5766")

SERIES: dict[str, Colour] = {
    "dense": DENSE,
    "SAE": SAE,
    "SAE, pooled first": SAE_POOLED,
    "eGeMAPS": _colour("egemaps"),
    "log-mel": _colour("logmel"),
    "dense layer": DENSE,
    "SAE codes": SAE,
    "SAE, the study's preset": SAE_POOLED,
    "latent chosen by output": SAE,
    "latent chosen by activation": SAE_POOLED,
    "random latents": NULL,
    "difference of means": DENSE,
    "principal component": OTHER,
    "audio minus silence": _colour("logmel"),
    "LEACE": _colour("untrained"),
    "relevance": SAE,
    "the spectrogram's energy": DENSE,
    "chance": NULL,
    "untouched encoder": DENSE,
    "layer replaced by its reconstruction": SAE,
    "layer replaced by its mean frame": NULL,
    "card": SAE,
    "firing of other clips": NULL,
    "cards of other latents": DENSE,
    "level alone": _colour("logmel"),
    "reconstruction": SAE,
    "k principal components": SAE_POOLED,
    "random atoms, encoder untrained": NULL,
    "partner": SAE,
    "largest of the null": NULL,
    **{entry.label: entry.colour for entry in REPRESENTATIONS.values() if entry.colour is not None},
}
"""Names in legends and their colours; blue and orange are distinguishable with any colour vision."""

FURTHER = (SAE, OTHER, _colour("untrained"))
"""Colours of names without their own, in the order of the legend: presets of a configuration."""


def series_colours(names: Sequence[str]) -> dict[str, Colour]:
    """Return the colour of each name: its own, or the next of `FURTHER` that no other name has."""
    own = {name: SERIES[name] for name in names if name in SERIES}
    free = cycle([colour for colour in FURTHER if colour not in own.values()] or [OTHER])
    return {name: own[name] if name in own else next(free) for name in names}


LAYER_ANCHORS = (
    Colour("#123c3a", "#3aa79c"),
    Colour("#1f7a5c", "#63d39a"),
    Colour("#5f9a1e", "#b4e05a"),
    Colour("#b39b00", "#f7e07a"),
)
"""Anchors of the layers' colours, from first to last; distinct from all representations."""


def layer_colours(layers: Sequence[int]) -> dict[int, Colour]:
    """Return one colour per layer, evenly spaced along the anchors in order of depth."""
    ordered = sorted(set(layers))
    last = max(len(ordered) - 1, 1)
    return {layer: _between(rank / last) for rank, layer in enumerate(ordered)}


def _between(position: float) -> Colour:
    scaled = position * (len(LAYER_ANCHORS) - 1)
    low = min(int(scaled), len(LAYER_ANCHORS) - 2)
    a, b, share = LAYER_ANCHORS[low], LAYER_ANCHORS[low + 1], scaled - low
    return Colour(_mix(a.light, b.light, share), _mix(a.dark, b.dark, share))


def _mix(first: str, second: str, share: float) -> str:
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


LABEL_SEPARATION = 6
"""Fewest pixels between labels of an axis; those that are nearer are dropped."""


def chart_config(*, ink: str, quiet: str, grid: str, paper: str | None) -> dict[str, Any]:
    """Return the Vega-Lite configuration that all charts share, in the given colours."""
    title = {"titleColor": ink, "titleFontSize": 12, "titleFontWeight": 500, "labelColor": quiet, "labelFontSize": 11}
    return {
        "font": FONT,
        "background": paper,
        "view": {"stroke": None},
        "axis": {
            **title,
            "gridColor": grid,
            "domainColor": quiet,
            "tickColor": quiet,
            "labelOverlap": True,
            "labelSeparation": LABEL_SEPARATION,
        },
        "axisX": {"grid": False, "labelAngle": 0, "titlePadding": 8},
        "axisY": {"domain": False, "ticks": False, "titlePadding": 10},
        "legend": {
            **title,
            "orient": "top",
            "symbolStrokeWidth": 3,
            "symbolSize": 90,
            "columnPadding": 14,
            "symbolOpacity": 1,
        },
        "title": {"color": ink, "fontSize": 13, "fontWeight": 600, "anchor": "start", "subtitleColor": quiet},
        "header": {"labelColor": ink, "titleColor": ink},
        "text": {"color": ink, "font": FONT},
        "range": {"heatmap": list(HEAT_LIGHT)},
    }


HEAT_INK = Colour("#23262c", "#e9e7e3")
HEAT_INK_STRONG = Colour("#fdfdfd", "#11151a")
"""Text colours on the weak and on the strong half of the heat map."""

HEAT_LIGHT = ("#f2f0ea", "#d3d1cb", "#a19f9c", "#67676a", "#2d2f35")
HEAT_DARK = ("#25282d", "#44474c", "#74767a", "#a9a9a8", "#e6e3dc")

LIGHT_CONFIG = chart_config(ink="#22252a", quiet="#5c626b", grid="#e4e2dc", paper=None)
DARK_CONFIG = {
    **chart_config(ink="#e8e6e1", quiet="#a3a8b0", grid="#34373d", paper=None),
    "range": {"heatmap": list(HEAT_DARK)},
}
PRINT_FONT = "Arial, Helvetica, 'Liberation Sans', sans-serif"
"""Text widths in files are measured with these metrics, so viewers should use one of these fonts."""

PRINT_CONFIG = {
    **LIGHT_CONFIG,
    "background": "#ffffff",
    "padding": 12,
    "font": PRINT_FONT,
    "text": {**LIGHT_CONFIG["text"], "font": PRINT_FONT},
}


def page_themes(layers: Sequence[int]) -> dict[str, Any]:
    """Return the chart themes of the page's script; `swap` maps every light colour to its dark form."""
    meanings: Mapping[str, Colour] = {**SERIES, "null": NULL, "factor": FACTOR, "other": OTHER}
    colours = [*meanings.values(), *layer_colours(layers).values()]
    colours += [HEAT_INK, HEAT_INK_STRONG]
    return {"light": LIGHT_CONFIG, "dark": DARK_CONFIG, "swap": {c.light: c.dark for c in colours}}
