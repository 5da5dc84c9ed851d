"""Run folder: paths of all artifacts, a lock for one writer at a time, and a log."""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from otoscope.artifacts import is_full, write_json
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, StorageFull, quote
from otoscope.paths import user_path

LOCK, MARK = ".lock", "run.json"
"""Names of a run's lock, and of the file by which a folder is known as a run's."""

OF_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that file managers leave in folders."""

FOLDERS = ("activations", "explain", "parts", "report", "saes", "sound", "stages", "tensorboard", "untrained")
"""Folders of a run."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of the artifacts of a run, `runs/NAME/`."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", user_path(self.root))

    @property
    def config(self) -> Path:
        """Configuration of the run."""
        return self.root / "config.yaml"

    @property
    def mark(self) -> Path:
        """File by which the folder is known as a run's."""
        return self.root / MARK

    @property
    def corpus(self) -> Path:
        """Table of clips; its card and the table of clips set aside are in the same folder."""
        return self.root / "corpus.parquet"

    @property
    def sound(self) -> Path:
        """Synthesised sound."""
        return self.root / "sound"

    @property
    def factors(self) -> Path:
        """Table with one row per clip and one column per factor; its card is in the same folder."""
        return self.root / "factors.parquet"

    @property
    def activations(self) -> Path:
        """Activation store."""
        return self.root / "activations"

    @property
    def damaged(self) -> Path:
        """List of the files of the store that a verification found damaged."""
        return self.activations / "damaged.json"

    @property
    def saes(self) -> Path:
        """Folder with one subfolder per SAE."""
        return self.root / "saes"

    @property
    def parts(self) -> Path:
        """Cached results, one table per representation."""
        return self.root / "parts"

    @property
    def results(self) -> Path:
        """Results table in long format."""
        return self.root / "results.parquet"

    @property
    def predictions(self) -> Path:
        """Predicted class of each test clip, by probe."""
        return self.root / "predictions.parquet"

    @property
    def explain(self) -> Path:
        """Clips at which the chosen latents fire."""
        return self.root / "explain"

    @property
    def report(self) -> Path:
        """Report page."""
        return self.root / "report" / "index.html"

    def card(self, stage: str) -> Path:
        """Return the path of the card of a finished stage."""
        return self.root / "stages" / f"{stage}.json"

    def log(self, event: str, **facts: object) -> None:
        """Append one line to `log.jsonl`."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        path = self.root / "log.jsonl"
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise ArtifactError(f"{path} is not a file of this run; move it away and run again")
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise _unwritable(path, error) from error

    @contextmanager
    def locked(self) -> Generator[None]:
        """Lock the folder against a second run; a killed process releases its lock.

        Raises `ArtifactError` for a folder that is neither new, nor empty, nor a run's, and for a run with a link that
        leads out of it in the place of a folder: no file of others is touched.
        """
        lock = FileLock(self.root / LOCK)
        try:
            self._require_own()
            self.root.mkdir(parents=True, exist_ok=True)
            acquired = lock.acquire(timeout=0)
        except Timeout as error:
            raise ArtifactError(f"another run is using {self.root}; wait for it or choose another --out") from error
        except OSError as error:
            raise _unwritable(self.root, error) from error
        with acquired:
            self._require_inside()
            write_json(self.mark, {"holds": "a run of otoscope"})
            yield

    def _require_own(self) -> None:
        if self.mark.is_file() or not self.root.is_dir():
            return
        others = sorted(path.name for path in self.root.iterdir() if path.name not in (LOCK, *OF_SYSTEMS))
        if others:
            raise ArtifactError(
                f"{self.root} holds files that are not of a run ({', '.join(map(quote, others[:3]))}"
                f"{', ...' if len(others) > 3 else ''}); give a new or an empty folder with --out"
            )

    def _require_inside(self) -> None:
        root = os.path.realpath(self.root)
        for top in (self.root / name for name in FOLDERS):
            if os.path.lexists(top) and not top.is_dir():
                raise ArtifactError(f"{top} is no folder; move it away and run again")
            below = (Path(folder, name) for folder, names, _ in os.walk(top) for name in names)
            for path in (top, *below):
                if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                    raise ArtifactError(
                        f"{path} is a link out of the run; remove it and run again (`extract.store` gives activations "
                        "another place)"
                    )


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    if is_full(error):
        return StorageFull(f"no room left to write {path}; free some space and run again")
    return ArtifactError(f"cannot write {path}: {error.strerror}; choose another --out")


def load_corpus(folder: RunFolder) -> Corpus:
    """Return the corpus of a run."""
    return Corpus.load(folder.corpus)
