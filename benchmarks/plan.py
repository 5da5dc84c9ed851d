"""Plan the extraction of 3,000 hours: time, disk space and cost from stated rates and a simulation of failures.

    python benchmarks/plan.py             # rewrites the tables of docs/how-to/plan-3000-hours.md, last line is JSON

Seeded: the same assumptions give the same tables. Shards go to the next free worker in order; some take longer; workers
die, lose their shard and restart. The rate of a processor core was measured, those of GPUs are assumed.
"""

import argparse
import heapq
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "plan-3000-hours.md"
BEGIN, END = "<!-- {name}: written by benchmarks/plan.py -->", "<!-- end of {name} -->"
GPUS = (1, 8, 64)
RATES = (100, 500, 2000, 8000)
CORES = (16, 64, 256)
CORE_RATE = 10.4
"""Multiple of real time of one processor core: HuBERT base, all layers, fast; from docs/benchmarks.md."""
SEEDS = range(20)


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of the plan; change them and run the script again."""

    hours: float = 3000.0
    shard_s: float = 1800.0
    times_real_time: float = 2000.0
    layers: int = 13
    width: int = 768
    frames_per_s: float = 50.0
    start_s: float = 60.0
    spread: float = 0.15
    straggler_share: float = 0.02
    straggler_factor: float = 3.0
    hours_between_deaths: float = 50.0
    replace_s: float = 180.0
    gpu_hour: float = 3.0
    gb_month: float = 0.023


@dataclass(frozen=True)
class Simulated:
    hours: float
    gpu_hours: float
    deaths: int
    lost_hours: float


def simulate(assumed: Assumptions, gpus: int, seed: int) -> Simulated:
    """Dispatch shards to workers that slow down and die; the run ends with the last shard."""
    rng = np.random.default_rng(seed)
    shards = round(assumed.hours * 3600 / assumed.shard_s)
    free = [(assumed.start_s, worker) for worker in range(gpus)]
    dies = [rng.exponential(assumed.hours_between_deaths * 3600) for _ in range(gpus)]
    waiting, ended_s, busy_s, lost_s, deaths = shards, 0.0, 0.0, 0.0, 0
    again: list[float] = []  # when shards of dead workers are handed out again
    while waiting or again:
        now_s, worker = heapq.heappop(free)
        if not waiting:
            now_s = max(now_s, again.pop(0))
        elif again and again[0] <= now_s:
            again.pop(0)
        else:
            waiting -= 1
        slow = assumed.straggler_factor if rng.random() < assumed.straggler_share else 1.0
        takes_s = assumed.shard_s / assumed.times_real_time * rng.lognormal(0.0, assumed.spread) * slow
        if now_s + takes_s > dies[worker]:
            died_s = max(dies[worker], now_s)
            deaths, lost_s, busy_s = deaths + 1, lost_s + died_s - now_s, busy_s + died_s - now_s
            again = sorted([*again, died_s])
            back_s = died_s + assumed.replace_s + assumed.start_s
            dies[worker] = back_s + rng.exponential(assumed.hours_between_deaths * 3600)
            heapq.heappush(free, (back_s, worker))
            continue
        ended_s, busy_s = max(ended_s, now_s + takes_s), busy_s + takes_s
        heapq.heappush(free, (now_s + takes_s, worker))
    return Simulated(ended_s / 3600, gpus * ended_s / 3600, deaths, lost_s / 3600)


def time_table(assumed: Assumptions) -> str:
    lines = [
        "| GPUs | times real time per GPU | median of 20 | worst of 20 | without failures | GPU hours | deaths |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        for gpus in GPUS:
            found = [simulate(replace(assumed, times_real_time=rate), gpus, seed) for seed in SEEDS]
            hours = [one.hours for one in found]
            ideal = assumed.hours / rate / gpus
            spent = statistics.median(one.gpu_hours for one in found)
            died = statistics.mean(one.deaths for one in found)
            lines.append(
                f"| {gpus} | {rate:,} | {told(statistics.median(hours))} | {told(max(hours))} | {told(ideal)} "
                f"| {spent:.1f} | {died:.2f} |"
            )
    return "\n".join(lines)


def processor_table(assumed: Assumptions) -> str:
    lines = ["| cores | median of 20 | worst of 20 | without failures | core hours |", "|---|---|---|---|---|"]
    for cores in CORES:
        found = [simulate(replace(assumed, times_real_time=CORE_RATE), cores, seed) for seed in SEEDS]
        hours = [one.hours for one in found]
        spent = statistics.median(one.gpu_hours for one in found)
        ideal = assumed.hours / CORE_RATE / cores
        lines.append(
            f"| {cores} | {told(statistics.median(hours))} | {told(max(hours))} | {told(ideal)} | {spent:.0f} |"
        )
    return "\n".join(lines)


def told(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def disk_table(assumed: Assumptions) -> str:
    seconds = assumed.hours * 3600
    lines = ["| stored | float32, GB per layer | float16 or bfloat16 | all layers, float16 |", "|---|---|---|---|"]
    clip_s = 5.0
    for name, rows in {
        "every frame": seconds * assumed.frames_per_s,
        "segments of 1 s": seconds,
        f"one row per clip of {clip_s:g} s": seconds / clip_s,
    }.items():
        full, half = (rows * assumed.width * size / 1e9 for size in (4, 2))
        lines.append(f"| {name} | {full:,.1f} | {half:,.1f} | {half * assumed.layers:,.0f} |")
    return "\n".join(lines)


def cost_table(assumed: Assumptions) -> str:
    lines = [
        "| GPUs | encoding, all layers, USD | encoding per layer, USD | frames, float16, USD per layer and month |",
        "|---|---|---|---|",
    ]
    stored = assumed.hours * 3600 * assumed.frames_per_s * assumed.width * 2 / 1e9 * assumed.gb_month
    for gpus in GPUS:
        spent = statistics.median(simulate(assumed, gpus, seed).gpu_hours for seed in SEEDS) * assumed.gpu_hour
        lines.append(f"| {gpus} | {spent:.2f} | {spent / assumed.layers:.2f} | {stored:.2f} |")
    return "\n".join(lines)


TABLES = {"time": time_table, "processors": processor_table, "disk": disk_table, "cost": cost_table}


def filled(page: str, assumed: Assumptions) -> str:
    """Return the page with regenerated tables."""
    for name, table in TABLES.items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, rest = page.split(begin)
        page = f"{before}{begin}\n\n{table(assumed)}\n\n{end}{rest.split(end)[1]}"
    return page


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    assumed = Assumptions()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), assumed), encoding="utf-8")
    rows = [{"gpus": gpus, **asdict(simulate(assumed, gpus, seed=0))} for gpus in GPUS]
    print(json.dumps({"bench": "plan", "assumed": asdict(assumed), "rows": rows}))


if __name__ == "__main__":
    main()
