"""A folder of recordings: classes are sub-folders, groups follow the user's rule."""

import re
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, field_validator, model_validator

from otoscope.corpus.listing import (
    CorpusSpec,
    Listing,
    ProgressCallback,
    UserPath,
    find_audio,
    listing_table,
    set_aside_table,
)
from otoscope.errors import CorpusError, quote


class FolderCorpus(CorpusSpec, frozen=True, extra="forbid"):
    """Every audio file under `root`, with its sub-folder as the label `class`.

    >>> FolderCorpus(root="recordings", group_pattern=r"(?P<group>[^_/]+)_[^/]*$").group_of("sung/ann_01.wav")
    'ann'
    """

    kind: Literal["folder"] = "folder"
    root: UserPath = Field(description="folder that is searched for audio, sub-folders included")
    class_from: Literal["top", "parent", "none"] = Field(
        default="top",
        description="source of the label `class`: the first folder under root, the folder of the file, or none",
    )
    group_from: Literal["file", "parent", "top"] | None = Field(
        default=None,
        description="source of the group, which stays in one split: file (default), its folder, or the first folder",
    )
    group_pattern: str | None = Field(
        default=None,
        description="regular expression with a named group `group`, searched in the path relative to root",
    )
    licence: str = Field(default="unknown", description="licence of the recordings, carried into the report")
    citation: str = Field(default="", description="how to cite the recordings, carried into the report")

    @field_validator("group_pattern")
    @classmethod
    def _names_a_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            names = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from error
        if "group" not in names:
            raise ValueError("needs a named group, such as (?P<group>[^_/]+)_")
        return pattern

    @model_validator(mode="after")
    def _one_rule(self) -> "FolderCorpus":
        if self.group_pattern is not None and self.group_from is not None:
            raise ValueError("give group_pattern or group_from, not both")
        return self

    def group_of(self, path: str) -> str | None:
        """Return the group of a relative path; None where `group_pattern` does not match."""
        if self.group_pattern is not None:
            match = re.search(self.group_pattern, path)
            return match["group"] if match else None
        folders = PurePosixPath(path).parts[:-1]
        if self.group_from == "top" and folders:
            return folders[0]
        if self.group_from == "parent" and folders:
            return "/".join(folders)
        return path

    def class_of(self, path: str) -> str | None:
        """Return the class of a relative path; None for a file directly in `root`."""
        folders = PurePosixPath(path).parts[:-1]
        if not folders or self.class_from == "none":
            return None
        return folders[0] if self.class_from == "top" else folders[-1]

    def listing(self, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:  # noqa: ARG002
        """List the audio files under `root`; set aside files that `group_pattern` does not match."""
        files = find_audio(self.root)
        groups = {path: self.group_of(path) for path in files.paths}
        classes = {path: self.class_of(path) for path in files.paths}
        rows: list[dict[str, object]] = [
            {"path": path, "group": group, "label_class": classes[path]} for path, group in groups.items() if group
        ]
        unmatched = set_aside_table(
            (path, "group_pattern finds no group in its path") for path, g in groups.items() if not g
        )
        if not rows:
            raise CorpusError(
                f"group_pattern {quote(self.group_pattern)} matches none of {len(groups)} paths under {self.root},"
                f" such as {next(iter(groups), 'none')}"
            )
        clips = listing_table(rows)
        if not any(classes.values()):
            clips = clips.drop("label_class")
        set_aside = files.set_aside.vstack(unmatched)
        return Listing(self.root.name, self.root, self.licence, self.citation, clips, set_aside)
