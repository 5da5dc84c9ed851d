"""Reads a page as strictly as an editor would: every element closed in its turn."""

import base64
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import polars as pl

VOID = frozenset({"br", "img", "input", "link", "meta", "hr", "wbr"})
"""Elements that have no end tag."""


@dataclass
class Tag:
    name: str
    attributes: dict[str, str | None]
    text: str = ""


@dataclass
class Reading:
    """What a page holds: its elements in order, and each mistake in their nesting."""

    tags: list[Tag] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def all(self, name: str, **attributes: str) -> list[Tag]:
        wanted = {k.rstrip("_"): v for k, v in attributes.items()}
        return [t for t in self.tags if t.name == name and all(t.attributes.get(k) == v for k, v in wanted.items())]

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.all("script", id="specs")[0].text)

    def csv(self, name: str) -> pl.DataFrame:
        (link,) = self.all("a", download=f"{name}.csv") or self.all("a", download=f"{name}.csv.gz")
        data = base64.b64decode((link.attributes["href"] or "").split(",", 1)[1])
        return pl.read_csv(io.BytesIO(data), infer_schema_length=None)

    def section(self, name: str) -> str:
        """All text of one section."""
        start = next(i for i, t in enumerate(self.tags) if t.name == "section" and t.attributes.get("id") == name)
        return self.tags[start].text


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.reading = Reading()
        self.open: list[Tag] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        keys = [k for k, _ in attrs]
        if len(set(keys)) != len(keys):
            self.reading.mistakes.append(f"{tag} repeats an attribute: {keys}")
        made = Tag(tag, dict(attrs))
        self.reading.tags.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1].name != tag:
            self.reading.mistakes.append(f"</{tag}> closes {self.open[-1].name if self.open else 'nothing'}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if (
            "\n" in data
            and not data.strip()
            and self.open
            and self.open[-1].name not in ("script", "style", "td", "th")
        ):
            return  # line breaks between elements of a template
        for tag in self.open:
            tag.text += data


def read_page(text: str) -> Reading:
    parser = _Parser()
    parser.feed(text)
    parser.close()
    parser.reading.mistakes += [f"<{t.name}> is never closed" for t in parser.open]
    return parser.reading
