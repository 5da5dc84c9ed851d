"""Engines by name."""

from otoscope.engines.base import Engine
from otoscope.engines.local import Local
from otoscope.errors import ConfigError, suggest

NAMES = ("local", "ray")


def find_engine(name: str) -> Engine:
    """Return the engine of a name: `local`, `ray` (the cluster of RAY_ADDRESS, else this machine) or `ray://HOST:PORT`.

    >>> find_engine("local")
    Local()
    """
    if name == "local":
        return Local()
    kind, _, address = name.partition("://")
    if kind != "ray":
        raise ConfigError(f"no engine {name!r}; {suggest(kind, NAMES)}; ray://HOST:PORT names a cluster")
    from otoscope.engines.ray import RayEngine  # an extra

    return RayEngine(address or None)
