"""A Hugging Face Hub on this machine, for tests: listings, files, and the failures of a real one."""

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin")


@dataclass
class Hub:
    """Repositories by name; `failures` are sent first, one per request, then `status` if it is not 200.

    `gated` restricts files to nobody. A file in `swapped` is sent with these bytes under its true digest. The first
    answer longer than `cut_after` bytes ends there. `listing` replaces the listing of every repository.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    status: int = 200
    failures: list[int | str] = field(default_factory=list)
    gated: bool = False
    swapped: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    listing: bytes | None = None
    requests: list[str] = field(default_factory=list)
    address: str = ""

    def digests(self, file: Path) -> tuple[str, str]:
        """Return the Git blob's SHA-1 and the SHA-256 of a file."""
        content = file.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return blob, hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        if path != "/api/agent-harnesses":  # asked by huggingface_hub itself, at most once a day
            hub.requests.append(f"{self.command} {path}")
        failure = hub.failures.pop(0) if hub.failures else hub.status
        if failure == "cut":
            self.connection.close()
            return
        if failure != 200:
            self._answer(int(failure), b"", {})
            return
        for name, folder in hub.repositories.items():
            if path.startswith(f"/api/models/{name}"):
                self._listing(name, folder)
                return
            if path.startswith(f"/{name}/resolve/"):
                self._file(folder, path.rpartition("/")[2])
                return
        self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _listing(self, name: str, folder: Path) -> None:
        siblings: list[dict[str, object]] = []
        tree: list[dict[str, object]] = []
        for file in sorted(folder.iterdir()):
            blob, sha256 = self.hub.digests(file)
            size = file.stat().st_size
            lfs = {"lfs": {"sha256": sha256, "oid": sha256, "size": size, "pointerSize": 130}}
            lfs = lfs if file.suffix in LARGE else {}
            siblings.append({"rfilename": file.name, "size": size, "blobId": blob, **lfs})
            tree.append({"type": "file", "path": file.name, "size": size, "oid": blob, **lfs})
        whole = {"id": name, "sha": COMMIT, "siblings": siblings}
        body = self.hub.listing or json.dumps(tree if "/tree/" in self.path else whole).encode()
        self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, folder: Path, name: str) -> None:
        if self.hub.gated:
            self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
            return
        if not (folder / name).is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        blob, sha256 = self.hub.digests(folder / name)
        etag = sha256 if Path(name).suffix in LARGE else blob
        body = self.hub.swapped.get(name, (folder / name).read_bytes())
        self._answer(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "GET":
            return
        cut = self.hub.cut_after
        if cut is not None and len(body) > cut:
            self.hub.cut_after = None
            self.wfile.write(body[:cut])
            self.close_connection = True
        else:
            self.wfile.write(body)


@contextmanager
def hub_server() -> Generator[Hub]:
    """Serve a Hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
