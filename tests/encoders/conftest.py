"""Fixtures of the encoder tests: caches of their own, and a Hub on this machine."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.hub_server import Hub, hub_server


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with empty caches, otoscope's own and the Hub's; the Hub is offline and no wheel is installed."""
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("otoscope.encoders.starter.WHEEL", "otoscope-no-such-wheel")
    return tmp_path


@pytest.fixture
def plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the linear layers of exact models as they are loaded, so that their parameters can be read by name."""
    monkeypatch.setattr("otoscope.encoders.precision.packing_is_faster", lambda: False)


@pytest.fixture
def hub(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    """Serve a Hub that is the only one reachable, with empty caches and short pauses between attempts."""
    del caches
    for name in ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with hub_server() as server:
        for constant, value in (
            ("HF_HUB_OFFLINE", False),
            ("ENDPOINT", server.address),
            ("HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"),
        ):
            monkeypatch.setattr(f"huggingface_hub.constants.{constant}", value)
        monkeypatch.setattr("otoscope.encoders.resolve.RETRY_WAITS_S", (0.01, 0.01))
        yield server
