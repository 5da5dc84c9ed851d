"""Description of the machine of a benchmark: processor, instruction sets, what PyTorch and Numba use of them."""

import os
import platform
from pathlib import Path
from typing import Any

FEATURES = ["avx2", "fma", "avx512f", "avx512bw", "avx512bf16", "amx-bf16", "neon", "bf16"]
"""Instruction sets that decide the speed of products and vector loops, as LLVM names them."""


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, instruction sets and the level that PyTorch's own loops use, for JSON rows."""
    import torch
    from llvmlite import binding

    from otoscope.hardware import available_cores

    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this processor
        features = {}
    return {
        "processor": processor_name(),
        "cores": available_cores(),
        "features": [name for name in FEATURES if features.get(name)],
        "torch": torch.backends.cpu.get_cpu_capability(),
        "numba": os.environ.get("NUMBA_CPU_NAME", "host"),
    }


def processor_name() -> str:
    """Return the name of the processor; Linux keeps it in /proc, other systems in `platform`."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_line(machine: dict[str, Any]) -> str:
    """Return a description of the machine as one line."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {' '.join(machine['features'])}; "
        f"PyTorch uses {machine['torch']}, Numba {machine['numba']}"
    )
