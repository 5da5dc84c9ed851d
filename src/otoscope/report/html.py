"""HTML by small calls: text is escaped unless it is already `Html`."""

import re
from html import escape

VOID = frozenset({"br", "img", "input", "link", "meta", "hr", "wbr"})
"""Elements that have no end tag."""


class Html(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


def element(tag: str, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """Return one element; plain strings among the children are escaped, None is left out.

    Attribute names lose a trailing underscore and turn the others into hyphens; True writes the
    bare name, False and None leave the attribute out.

    >>> element("p", "a < b", class_="note", hidden=True)
    '<p class="note" hidden>a &lt; b</p>'
    """
    written = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        written.append(key if value is True else f'{key}="{escape(str(value))}"')
    opening = f"<{' '.join(written)}>"
    return Html(opening) if tag in VOID else Html(f"{opening}{join(*children)}</{tag}>")


def join(*children: str | None) -> Html:
    """Set pieces one after the other, escaping what is plain text.

    >>> join("1 < 2, ", element("b", "yes"))
    '1 &lt; 2, <b>yes</b>'
    """
    return Html("".join(c if isinstance(c, Html) else escape(c) for c in children if c is not None))


def with_code(text: str) -> Html:
    """Return text in which what stands between backticks is code; a lone backtick stays as it is.

    >>> with_code("a < b: run `otoscope run`")
    'a &lt; b: run <code>otoscope run</code>'
    """
    pieces = re.split(r"`([^`]+)`", text)
    return join(*(element("code", piece) if place % 2 else piece for place, piece in enumerate(pieces)))


def script_json(text: str) -> Html:
    r"""Return JSON that may stand inside a script element: no `<` is left in it.

    >>> print(script_json('{"name": "</script>"}'))
    {"name": "\u003c/script>"}
    """
    return Html(text.replace("<", "\\u003c"))
