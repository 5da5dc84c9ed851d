"""Keys of every corpus kind in configuration.md, written from the code: `python docs/write_configuration.py`."""

import re
from pathlib import Path

from otoscope.corpus.catalog import CORPORA, corpus_class

PAGE = Path(__file__).with_name("configuration.md")

MARKED = re.compile(r"(?<=<!-- from the code: python docs/write_configuration.py -->\n).*(?=<!-- end -->)", re.DOTALL)


def corpora() -> str:
    """Return a table of keys per corpus kind."""
    lines: list[str] = []
    for kind in map(corpus_class, CORPORA):
        title = f"### `kind: {kind.model_fields['kind'].default}`"
        lines += ["", title, "", "| key | default | meaning |", "|---|---|---|"]
        own = [name for name in kind.model_fields if name in kind.__annotations__]
        for name, field in {**dict.fromkeys(own), **kind.model_fields}.items():
            if name != "kind":
                default = "required" if field.is_required() else f"`{_shown(field.default)}`"
                lines.append(f"| `{name}` | {default} | {_escaped(str(field.description))} |")
    return "\n".join([*lines, "", ""])


def page() -> str:
    """Return the page with current tables."""
    return MARKED.sub(lambda _: corpora(), PAGE.read_text(encoding="utf-8"))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return "null" if value is None else str(value) or '""'


def _escaped(text: str) -> str:
    """Return text without table separators and markup; what is in backticks stays."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"([*<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
