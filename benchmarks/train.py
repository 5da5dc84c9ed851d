"""One training step of a TopK SAE: otoscope compared with other libraries, in one interleaved run.

    python benchmarks/train.py            # builds .bench/train once, then measures; last line is JSON
    python benchmarks/train.py --rounds 5 --cases k102 paper
    python benchmarks/train.py --device cuda    # the same table on a GPU; has not run on hardware yet

Contenders take turns on the same threads and batches; reported are medians over rounds and the ratio of the fastest
turns. On a busy machine the threads of a contender wait for each other, which slows some more than others: `--clock
cpu --threads 1` measures processor time of one thread instead. Each step is the library's own: forward, loss with AuxK
as by default (no latent is dead yet), backward, gradient projection or clipping if present, optimiser, schedule,
normalisation. otoscope takes the step that `fit` would take here: on the error at k like the peers, and on the sums of
errors that the default preset minimises in its first quarter (four budgets) and afterwards (two). `limit` is the
encoder's dense product in the fastest precision of this machine, plus one pass that reads and writes an array as large
as the weights and both Adam moments, each repeated as often as a turn has steps. An option of a peer that is 20 times
slower than that peer's default is dropped after one turn; a case ends after `CASE_S` seconds, with fewer rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from machine import describe_machine, machine_line

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bench" / "train"
PINS = {"torch": "2.13.0", "dictionary-learning": "0.1.0", "eai-sparsify": "1.3.3", "sae-lens": "6.54.12"}
SKIPPED_PINS = {"dictionary-learning"}
"""Installed without dependencies: they require an old nnsight for language models, which no trainer uses."""

CASE_S = 150.0
"""Longest time for one case, so that five take less than 15 minutes on any machine; three rounds are always taken."""
TOO_SLOW = 20.0
"""An option of a peer is dropped if it is this many times slower than the peer's default."""
DEFAULTS = {"sparsify (Adam)": "sparsify (signum)", "sae-lens (autocast)": "sae-lens"}
"""Default of the peer that each option belongs to."""

OWN = ("otoscope", "otoscope, four budgets", "otoscope, two budgets")

STEPS = 3
"""Consecutive steps per turn, so that caches are as warm as in training."""


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Case(NamedTuple):
    name: str
    width: int
    latents: int
    k: int
    batch: int

    @property
    def label(self) -> str:
        return f"width {self.width}, latents {self.latents}, k {self.k}, batch {self.batch}"


CASES = [
    Case("k102", 768, 2048, 102, 1024),
    Case("k20", 768, 2048, 20, 1024),
    Case("wide", 768, 6144, 50, 2048),
    Case("k512", 768, 2048, 512, 1024),
    Case("paper", 768, 2048, 102, 16),
]


def main() -> None:
    from otoscope.hardware import available_cores

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--cases", nargs="+", choices=[c.name for c in CASES], default=[c.name for c in CASES])
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        cases = [c for c in CASES if c.name in options.cases]
        measure(
            cases, options.rounds, options.threads, device_clock(CLOCKS[options.clock], options.device), options.device
        )
        return
    python = build_environment()
    settings = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    command = [str(python), __file__, "--inside", *sys.argv[1:]]
    sys.exit(subprocess.run(command, env={**os.environ, **settings}, check=False).returncode)


def build_environment() -> Path:
    """Return the interpreter of the environment with the peers; build it if needed."""
    python, ready = CACHE / "bin" / "python", CACHE / ".ready"
    stamp = json.dumps(PINS, sort_keys=True)
    if ready.exists() and ready.read_text() == stamp:
        return python
    print(f"building {CACHE.relative_to(ROOT)} (once, minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(CACHE)], check=True)
    pins = CACHE / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in PINS.items()))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(pins)]
    subprocess.run([*pip, "torch", "uv"], check=True)  # the build of torch that pip is configured for
    # uv keeps this torch and resolves the other packages in seconds, where pip takes half an hour
    uv = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python), "-c", str(pins)]
    whole = [name for name in PINS if name not in SKIPPED_PINS]
    # in the versions that the peers allow: otoscope's training has no newer needs than they do
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    subprocess.run([*uv, *whole, *(name.split(">")[0] for name in own)], check=True)
    subprocess.run([*uv, "--no-deps", *SKIPPED_PINS, "--editable", str(ROOT)], check=True)
    ready.write_text(stamp)
    return python


def device_clock(clock: Callable[[], float], device: str) -> Callable[[], float]:
    """Return a clock that first waits for the work of a GPU."""
    if not device.startswith("cuda"):
        return clock

    def wait() -> float:
        import torch

        torch.cuda.synchronize(device)
        return clock()

    return wait


@dataclass
class Contender:
    name: str
    step: Callable[[Any], Any]
    """Run one step on a batch, a float32 tensor [batch, width]."""
    seconds: list[float]


def measure(cases: list[Case], rounds: int, threads: int, clock: Callable[[], float], device: str) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    machine = describe_machine()
    print(machine_line(machine))
    rows = []
    for case in cases:
        began = time.perf_counter()
        batches = [batch.to(device) for batch in make_batches(case)]
        contenders = [Contender(name, make(case, batches[0], threads), []) for name, make in MAKERS.items()]
        steps = max(STEPS, 512 // case.batch)
        limits = Limits(case, steps, clock, device)
        contenders, dropped = warm_up(contenders, batches, clock)
        for turn in range(rounds):
            if turn >= 3 and time.perf_counter() - began > CASE_S:
                break
            for contender in contenders:
                time.sleep(0.02)  # idle OpenMP threads of the one before stop spinning
                start = clock()
                for i in range(steps):
                    contender.step(batches[(turn + i) % len(batches)])
                contender.seconds.append((clock() - start) / steps)
            limits.measure()
        rows.append({**report(case, contenders, limits), "dropped": dropped, "machine": machine})
    print(json.dumps({"bench": "train", "rows": rows}))


def warm_up(
    contenders: list[Contender], batches: list[Any], clock: Callable[[], float]
) -> tuple[list[Contender], list[str]]:
    """Take the first steps of every contender; return those to measure, and the names of those that are too slow."""
    seconds: dict[str, float] = {}
    for contender in contenders:
        contender.step(batches[0])  # allocates and compiles
        start = clock()
        contender.step(batches[1])
        seconds[contender.name] = clock() - start
    dropped = [name for name, default in DEFAULTS.items() if seconds[name] > TOO_SLOW * seconds[default]]
    for name in dropped:
        print(
            f"  dropped {name}: {1e3 * seconds[name]:.0f} ms per step, {seconds[DEFAULTS[name]] * 1e3:.0f} by default"
        )
    return [contender for contender in contenders if contender.name not in dropped], dropped


def report(case: Case, contenders: list[Contender], limits: "Limits") -> dict[str, Any]:
    speed = {c.name: case.batch / statistics.median(c.seconds) for c in contenders}
    own, first, later = (speed.pop(name) for name in OWN)
    preset = 1 / (0.25 / first + 0.75 / later)
    best = {c.name: case.batch / min(c.seconds) for c in contenders if c.name not in OWN[1:]}
    own_best = best.pop(OWN[0])
    limit_s = limits.seconds()
    fastest = max(speed, key=lambda name: speed[name])
    print(f"\n{case.name}: {case.label}")
    print(f"  {'otoscope':28s} {own:9.0f} rows/s  {1e3 * case.batch / own:8.2f} ms")
    print(f"  {'its default preset':28s} {preset:9.0f} rows/s  {1e3 * case.batch / preset:8.2f} ms")
    for name, value in sorted(speed.items(), key=lambda item: -item[1]):
        print(f"  {name:28s} {value:9.0f} rows/s  {1e3 * case.batch / value:8.2f} ms  {own / value:5.1f} times slower")
    print(f"  fastest turns: otoscope {own_best:.0f} rows/s, peers {max(best.values()):.0f} rows/s")
    print(f"  {'limit':28s} {case.batch / limit_s:9.0f} rows/s  {1e3 * limit_s:8.2f} ms  ({limits.describe()})")
    return {
        "case": case.label,
        "rows_per_s": round(own, 1),
        "preset_rows_per_s": round(preset, 1),
        "ratio": round(own / speed[fastest], 2),
        "fastest_peer": fastest,
        "preset_ratio": round(preset / speed[fastest], 2),
        "ratio_of_fastest_turns": round(own_best / max(best.values()), 2),
        "limit_share": round(limit_s * own / case.batch, 3),
        "peers": {name: round(value, 1) for name, value in speed.items()},
    }


def make_batches(case: Case) -> list[Any]:
    """Rows with few of 1,024 hidden directions each, plus noise and an offset."""
    import torch

    directions = torch.randn(1024, case.width)
    offset = torch.randn(case.width)
    batches = []
    for _ in range(8):
        active = (torch.rand(case.batch, 1024) < 0.03) * torch.rand(case.batch, 1024)
        batches.append((active @ directions + 0.3 * torch.randn(case.batch, case.width) + offset).contiguous())
    return batches


class Limits:
    """Lower bound of a step: the encoder's product, and one read and write of weights and moments."""

    def __init__(self, case: Case, steps: int, clock: Callable[[], float], device: str) -> None:
        import torch

        x = torch.randn(case.batch, case.width, device=device)
        weights = torch.randn(case.latents, case.width, device=device)
        pairs = {"float32": (x, weights), "bfloat16": (x.bfloat16(), weights.bfloat16())}
        self.products: dict[str, Callable[[], Any]] = {
            name: (lambda a=a, b=b: a @ b.T) for name, (a, b) in pairs.items()
        }
        self.steps, self.clock = steps, clock
        self.state = torch.zeros(2 * 3, case.latents, case.width, device=device)
        self.times: dict[str, list[float]] = {name: [] for name in (*self.products, "memory")}
        self.measure()
        for values in self.times.values():
            values.clear()

    def measure(self) -> None:
        for name, work in {**self.products, "memory": lambda: self.state.add_(1)}.items():
            time.sleep(0.01)
            work()  # idle threads wake up
            start = self.clock()
            for _ in range(self.steps):
                work()
            self.times[name].append((self.clock() - start) / self.steps)

    def fastest(self) -> tuple[str, float]:
        medians = {name: statistics.median(self.times[name]) for name in self.products}
        name = min(medians, key=lambda key: medians[key])
        return name, medians[name]

    def memory(self) -> float:
        return statistics.median(self.times["memory"])

    def seconds(self) -> float:
        return self.fastest()[1] + self.memory()

    def describe(self) -> str:
        name, seconds = self.fastest()
        return f"product {1e3 * seconds:.2f} ms in {name}; memory {1e3 * self.memory():.2f} ms"


def otoscope(budgets: tuple[float, ...]) -> Callable[[Case, Any, int], Callable[[Any], Any]]:
    """Step on the sum of the errors at these shares of k."""

    def make(case: Case, batch: Any, threads: int) -> Callable[[Any], Any]:
        from otoscope.hardware import one_thread
        from otoscope.sae import SparseAutoencoder, TopK, TrainConfig
        from otoscope.sae.kernel_step import pick_stepper

        sae = SparseAutoencoder(case.width, case.latents, TopK(case.k)).train().to(batch.device)
        sae.set_scaling(batch.mean(dim=0), batch.std())
        stepper = pick_stepper(sae, TrainConfig(k_shares=budgets), dead_window_rows=10_000_000, threads=threads)

        def take(rows: Any) -> None:
            with one_thread():  # as in training
                inner = sae.normalise(rows)
            stepper.step(inner, learning_rate=5e-4)

        return take

    return make


def dictionary_learning(case: Case, batch: Any, _threads: int) -> Callable[[Any], Any]:
    absent: Any = types.ModuleType("nnsight")
    absent.LanguageModel = object  # imported for its activation buffer, which is not used here
    sys.modules.setdefault("nnsight", absent)
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=100_000,
        activation_dim=case.width,
        dict_size=case.latents,
        k=case.k,
        layer=0,
        lm_name="none",
        device=str(batch.device),
        warmup_steps=1000,
    )
    count = iter(range(10**9))
    return lambda rows: trainer.update(next(count), rows)


def sparsify(optimiser: str) -> Callable[[Case, Any, int], Callable[[Any], Any]]:
    """Body of `Trainer.fit` (loss "fvu", no AuxK by default), which itself requires a language model."""

    def make(case: Case, batch: Any, _threads: int) -> Callable[[Any], Any]:
        import torch
        from schedulefree import ScheduleFreeWrapper
        from sparsify import SparseCoder, SparseCoderConfig
        from sparsify.sign_sgd import SignSGD
        from transformers import get_linear_schedule_with_warmup

        coder = SparseCoder(case.width, SparseCoderConfig(num_latents=case.latents, k=case.k), device=batch.device)
        coder.b_dec.data = batch.mean(dim=0)
        size = (case.latents / 2**14) ** 0.5
        if optimiser == "adam":
            chosen: Any = torch.optim.Adam(coder.parameters(), lr=2e-4 / size)
            schedule = get_linear_schedule_with_warmup(chosen, 1000, 100_000)
        else:
            chosen = ScheduleFreeWrapper(SignSGD([{"params": coder.parameters(), "lr": 5e-3 / size}]), momentum=0.95)
            chosen.train()
            schedule = None
        silent = torch.zeros(case.latents, dtype=torch.long, device=batch.device)
        fired = torch.zeros(case.latents, dtype=torch.bool, device=batch.device)

        def take(rows: Any) -> None:
            coder.set_decoder_norm_to_unit_norm()
            out = coder(rows)
            fired[out.latent_indices.flatten()] = True
            out.fvu.backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            chosen.step()
            chosen.zero_grad()
            if schedule is not None:
                schedule.step()
            silent.add_(len(rows))
            silent[fired] = 0
            fired.zero_()

        return take

    return make


def sae_lens(*, autocast: bool) -> Callable[[Case, Any, int], Callable[[Any], Any]]:
    def make(case: Case, batch: Any, _threads: int) -> Callable[[Any], Any]:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        device = str(batch.device)
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=case.width, d_sae=case.latents, k=case.k, device=device))
        config = SAETrainerConfig(
            total_training_samples=100_000 * case.batch,
            train_batch_size_samples=case.batch,
            lr_end=3e-5,
            autocast=autocast,
            device=device,
        )
        trainer = SAETrainer(config, sae, iter(()))

        def take(rows: Any) -> None:
            trainer.step(rows)
            trainer.n_training_steps += 1

        return take

    return make


def paper(case: Case, batch: Any, _threads: int) -> Callable[[Any], Any]:
    """The study's loop (PyTorch): linear, ReLU, k largest, linear without bias, mean squared error, Adam at 1e-3."""
    import torch
    from torch import nn

    encoder = nn.Linear(case.width, case.latents, device=batch.device)
    decoder = nn.Linear(case.latents, case.width, bias=False, device=batch.device)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)

    def take(rows: Any) -> None:
        codes = encoder(rows).relu()
        values, places = codes.topk(case.k, dim=-1)
        sparse = torch.zeros_like(codes).scatter(-1, places, values)
        loss = nn.functional.mse_loss(decoder(sparse), rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    return take


MAKERS: dict[str, Callable[[Case, Any, int], Callable[[Any], Any]]] = {
    OWN[0]: otoscope((1.0,)),
    OWN[1]: otoscope((0.125, 0.25, 0.5, 1.0)),
    OWN[2]: otoscope((0.25, 1.0)),
    "paper's loop": paper,
    "dictionary-learning": dictionary_learning,
    "sparsify (Adam)": sparsify("adam"),
    "sparsify (signum)": sparsify("signum"),
    "sae-lens": sae_lens(autocast=False),
    "sae-lens (autocast)": sae_lens(autocast=True),
}


if __name__ == "__main__":
    main()
