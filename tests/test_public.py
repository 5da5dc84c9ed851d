"""What `import otoscope` offers."""

import subprocess
import sys

import otoscope


def test_every_public_name_is_there_and_listed() -> None:
    assert otoscope.__all__ == sorted(otoscope.__all__)
    for name in otoscope.__all__:
        assert getattr(otoscope, name).__module__.startswith("otoscope.")
        assert name in dir(otoscope)


def test_importing_it_does_not_wait_for_torch() -> None:
    code = "import otoscope, otoscope.cli.main, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(otoscope, "load_everything")
