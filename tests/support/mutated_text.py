"""Damaged and odd versions of a text file, seeded."""

import random
from collections.abc import Iterator

ODD = (
    "\0", "\x1b[2J", "\ufffe", "\ufeff", "é", "e\u0301", "\u2028", '"', "'", ",", ";", "\t", "|", "\n", "\r", "\n\n",
    "&a ", "*a", "!!int ", "{", "}", "[", "]", "- ", ": ", "? ", "<<: ", "~", "~nosuchuser/", "../", "/", "C:\\",
    "NA", "nan", "inf", "-inf", "1e308", "-1", "0", "010", "1,5", "9" * 30, "1e999", "true", "no", "2024-13-45",
    "label_", "factor_", "path", "group", "(?P<group>", "a{99999999999}", "${HOME}", "${NO_SUCH}", "x" * 5000,
)  # fmt: skip


def mutated_texts(text: str, *, times: int, seed: int = 0) -> Iterator[bytes]:
    """Yield versions of a text with one to three changes each: bytes flipped, cut, doubled, moved, inserted."""
    rng = random.Random(seed)
    original = text.encode()
    for _ in range(times):
        data = original
        for _ in range(rng.randint(1, 3)):
            data = _changed(data, rng)
        yield data


def _changed(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randint(0, len(data)) for _ in range(2))
    lines = data.splitlines(keepends=True) or [b""]
    match rng.randint(0, 9):
        case 0:
            return data[:start] + bytes([rng.randrange(256)]) + data[start + 1 :]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:]
        case 3:
            return b"".join(rng.sample(lines, len(lines)))
        case 4:
            return b"".join([*lines, rng.choice(lines) * rng.randint(1, 3)])
        case 5:
            return data.decode("utf-8", "replace").encode(
                rng.choice(["utf-16", "utf-32", "utf-8-sig", "cp1252"]), "replace"
            )
        case 6:
            return data.replace(*(rng.choice([b",", b";", b":", b" ", b".", b"\n", b"_"]) for _ in range(2)))
        case _:
            return data[:start] + rng.choice(ODD).encode("utf-8", "surrogatepass") + data[start:]
