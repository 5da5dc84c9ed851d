"""The run folder: where each stage's artifact lies, one writer at a time, and a log."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from otoscope.artifacts import is_full
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, StorageFull


@dataclass(frozen=True)
class RunFolder:
    """`runs/NAME/`: every artifact of a run, at its fixed place."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration the run was made with."""
        return self.root / "config.yaml"

    @property
    def corpus(self) -> Path:
        """Clips; the card, the clips set aside and the warnings lie beside it."""
        return self.root / "corpus.parquet"

    @property
    def sound(self) -> Path:
        """Sound that the run made itself (sung corpora)."""
        return self.root / "sound"

    @property
    def factors(self) -> Path:
        """One row a clip, one column a factor; the card lies beside it."""
        return self.root / "factors.parquet"

    @property
    def activations(self) -> Path:
        """The activation store."""
        return self.root / "activations"

    @property
    def saes(self) -> Path:
        """One folder a dictionary."""
        return self.root / "saes"

    @property
    def parts(self) -> Path:
        """Results of each representation, before they are joined."""
        return self.root / "parts"

    @property
    def results(self) -> Path:
        """The long table of results."""
        return self.root / "results.parquet"

    @property
    def explain(self) -> Path:
        """Clips at which the chosen latents fire."""
        return self.root / "explain"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report" / "index.html"

    def card(self, stage: str) -> Path:
        """Record of a finished stage."""
        return self.root / "stages" / f"{stage}.json"

    def log(self, event: str, **facts: object) -> None:
        """Append one line to `log.jsonl`."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        path = self.root / "log.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise _unwritable(path, error) from error

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the folder; a second run in it is refused, and a killed one leaves no lock behind."""
        lock = FileLock(self.root / ".lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            held = lock.acquire(timeout=0)
        except Timeout as error:
            raise ArtifactError(
                f"another run is at work in {self.root}; wait for it or choose another --out"
            ) from error
        except OSError as error:
            raise _unwritable(self.root, error) from error
        with held:
            yield


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    if is_full(error):
        return StorageFull(f"no room left to write {path}; free some space and run again")
    return ArtifactError(f"cannot write {path}: {error.strerror}; choose another --out")


def load_corpus(folder: RunFolder) -> Corpus:
    """Return the corpus that the first stage wrote."""
    return Corpus.load(folder.corpus)
