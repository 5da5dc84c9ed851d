"""Engines by name."""

import re

from otoscope.engines.base import Engine
from otoscope.engines.local import Local
from otoscope.errors import ConfigError, suggest

NAMES = ("local", "ray")
SILENCE = re.compile(r"silence_s=(\d+(?:\.\d+)?)")


def find_engine(name: str) -> Engine:
    """Return the engine of a name: `local`, `ray` (the cluster of RAY_ADDRESS, else this machine) or `ray://HOST:PORT`.

    `ray?silence_s=600` and `ray://HOST:PORT?silence_s=600` end workers that have been silent for that long.

    >>> find_engine("local")
    Local()
    """
    if name == "local":
        return Local()
    where, _, settings = name.partition("?")
    kind, _, address = where.partition("://")
    if kind != "ray":
        raise ConfigError(f"no engine {name!r}; {suggest(kind, NAMES)}; ray://HOST:PORT names a cluster")
    from otoscope.engines.ray import SILENCE_S, RayEngine  # an extra

    silence = SILENCE.fullmatch(settings or f"silence_s={SILENCE_S}")
    if silence is None:
        raise ConfigError(f"engine {name!r}: {settings!r} is no setting; allowed: silence_s=SECONDS")
    return RayEngine(address or None, silence_s=float(silence[1]))
