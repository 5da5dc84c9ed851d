"""Call the command line in this process, as the console script does."""

from typing import NamedTuple

import pytest

from otoscope.cli.main import main


class Outcome(NamedTuple):
    """Exit code, and what was printed."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """The error's lines: all that follows the last line of progress."""
        lines = self.err.splitlines()
        first = next((i for i, line in enumerate(lines) if line.startswith(("error: ", "unexpected "))), len(lines))
        return "\n".join(lines[first:])


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    capsys.readouterr()
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    return Outcome(code, *capsys.readouterr())


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """Call, hold the outcome to one or two lines without a traceback and nothing on standard output; return them."""
    outcome = call(capsys, *arguments)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.told.startswith("error: "), outcome.err
    assert len(outcome.told.splitlines()) <= 2
    return outcome.told
