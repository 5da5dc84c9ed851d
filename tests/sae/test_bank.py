"""A bank trains SAEs in parallel to the same bytes as alone."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope import ArrayRows, Bank, TrainConfig
from otoscope.errors import ConfigError, DamagedArtifact, StaleArtifact, TrainingError
from otoscope.hardware import one_thread
from otoscope.sae.bank import PROGRESS, BankMember, MemberStep, save_progress
from otoscope.sae.checkpoint import CARD, WEIGHTS
from otoscope.sae.data import CachedRows
from otoscope.sae.plan import member_bytes, resolve
from otoscope.sae.statistics import compute_statistics
from otoscope.sae.train import begin, train_steps
from tests.support.planted import planted
from tests.support.training import train_into

QUICK = TrainConfig(batch=64, epochs=3, dead_window_rows=64, learning_rate=3e-3)
NESTED = QUICK.model_copy(update={"sparsifier": "batch_topk", "prefixes": (0.25, 1.0)})
ARCHETYPAL = QUICK.model_copy(
    update={"dictionary": "archetypal", "unit_norm": False, "init": "points", "archetypes": 50}
)
PRINCIPAL = QUICK.model_copy(update={"init": "principal", "scaling": "auto", "patience": 0.25})

MEMBERS = [
    BankMember(name="one", latents=96, k=5, preset=QUICK),
    BankMember(name="more active", latents=96, k=30, preset=QUICK),
    BankMember(name="wider", latents=160, k=5, preset=QUICK),
    BankMember(name="other seed", latents=96, k=5, seed=1, preset=QUICK),
    BankMember(name="other batch", latents=96, k=5, preset=QUICK.model_copy(update={"batch": 100})),
    BankMember(name="nested", latents=96, k=5, preset=NESTED),
    BankMember(name="gated", latents=96, k=5, preset=QUICK.model_copy(update={"sparsifier": "gated"})),
    BankMember(name="archetypal", latents=96, k=5, preset=ARCHETYPAL),
    BankMember(name="principal", latents=96, k=20, preset=PRINCIPAL),
]

TRAIN, VALID = planted(0, 1), planted(2, frames=100)


class Counted:
    """Source that counts its reads."""

    def __init__(self, rows: ArrayRows) -> None:
        self.rows, self.height, self.width = rows, rows.height, rows.width
        self.taken: list[int] = []

    def take(self, indices: np.ndarray) -> np.ndarray:
        self.taken.append(len(indices))
        return self.rows.take(indices)


def kept_in(folder: Path, members: Iterable[BankMember] = MEMBERS) -> list[BankMember]:
    return [replace(member, folder=folder / member.name, card={"seed": member.seed}) for member in members]


def train_bank(bank: Bank) -> list[MemberStep]:
    return list(bank.train())


def alone(folder: Path, member: BankMember) -> None:
    with one_thread():
        run = begin(TRAIN, VALID, member.preset, latents=member.latents, k=member.k, seed=member.seed)
        train_into(folder, run, {"seed": member.seed})


def same_bytes(one: Path, two: Path) -> None:
    for name in (WEIGHTS, CARD):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert not (two / PROGRESS).exists()


@pytest.fixture(scope="module")
def by_themselves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for member in MEMBERS:
        alone(folder / member.name, member)
    return folder


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_bank_member_equals_the_sae_trained_alone(by_themselves: Path, tmp_path: Path, workers: int):
    train_bank(Bank(TRAIN, VALID, kept_in(tmp_path), workers=workers))
    for member in MEMBERS:
        same_bytes(by_themselves / member.name, tmp_path / member.name)


def test_bank_members_do_not_depend_on_others_or_threads(by_themselves: Path, tmp_path: Path):
    for member in kept_in(tmp_path, MEMBERS[1:2]):
        bank = Bank(TRAIN, VALID, [member], workers=3)
        assert bank.threads([member]) == 3
        train_bank(bank)
    same_bytes(by_themselves / "more active", tmp_path / "more active")


def test_bank_reads_large_rows_once_for_all_members(by_themselves: Path, tmp_path: Path):
    rows = Counted(TRAIN)
    members = kept_in(tmp_path, MEMBERS[:3])
    bank = Bank(rows, VALID, members, workers=2, memory_bytes=2 << 30)
    assert isinstance(bank.rows, CachedRows)
    assert sum(rows.taken) == TRAIN.height
    rows.taken.clear()
    bank.rows = rows
    train_bank(bank)
    starting = 3 * 64
    assert sum(rows.taken) == 3 * TRAIN.height + starting
    for member in MEMBERS[:3]:
        same_bytes(by_themselves / member.name, tmp_path / member.name)


class Killed(Exception):
    """Exception that stands for a kill signal."""


def train_until(bank: Bank, kill_after: int) -> None:
    for number, _ in enumerate(bank.train(save_every_s=0.0), start=1):
        if number == kill_after:
            raise Killed


@pytest.mark.parametrize("kill_after", [1, 60, 200])
def test_bank_resumed_ends_in_the_same_bytes(
    by_themselves: Path, tmp_path: Path, kill_after: int, monkeypatch: pytest.MonkeyPatch
):
    whole = 6 * 39 + 2 * 39
    monkeypatch.setattr("otoscope.sae.bank.SLICE_STEPS", 7)
    with pytest.raises(Killed, match=r"^$"):
        train_until(Bank(TRAIN, VALID, kept_in(tmp_path), workers=2), kill_after)
    left = train_bank(Bank(TRAIN, VALID, kept_in(tmp_path), workers=2))
    assert len(left) < whole - kill_after // 2
    for member in MEMBERS:
        same_bytes(by_themselves / member.name, tmp_path / member.name)


def test_bank_train_yields_every_step_and_the_result_last():
    steps = train_bank(Bank(TRAIN, VALID, MEMBERS[:2], workers=2))
    for member in MEMBERS[:2]:
        own = [s for s in steps if s.name == member.name]
        assert [s.step.step for s in own if s.step] == list(range(1, 40))
        assert [s.result is not None for s in own] == [False] * 38 + [True]
    trained = steps[-1].result
    assert trained is not None
    assert trained.summary["valid_l0"] <= 30


def test_bank_saves_the_result_of_a_completed_run(by_themselves: Path, tmp_path: Path):
    (member,) = kept_in(tmp_path, MEMBERS[:1])
    assert member.folder is not None
    with one_thread():
        run = begin(TRAIN, VALID, member.preset, latents=member.latents, k=member.k)
        for _ in train_steps(run):
            pass
        save_progress(member.folder, run)
    (only,) = train_bank(Bank(TRAIN, VALID, [member]))
    assert only.step is None
    assert only.result is not None
    same_bytes(by_themselves / "one", member.folder)


def test_bank_stale_progress_raises_or_is_discarded(
    by_themselves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (member,) = kept_in(tmp_path, MEMBERS[:1])
    monkeypatch.setattr("otoscope.sae.bank.SLICE_STEPS", 7)
    with pytest.raises(Killed, match=r"^$"):
        train_until(Bank(TRAIN, VALID, [replace(member, seed=7)]), 10)
    assert member.folder is not None
    assert (member.folder / PROGRESS).exists()
    with pytest.raises(StaleArtifact, match=r"^one: .* was made from other inputs"):
        train_bank(Bank(TRAIN, VALID, [member]))
    list(Bank(TRAIN, VALID, [member]).train(discard_stale=True))
    same_bytes(by_themselves / "one", member.folder)


def test_bank_damaged_progress_error(tmp_path: Path):
    (member,) = kept_in(tmp_path, MEMBERS[:1])
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / PROGRESS).write_bytes(b"half a file")
    with pytest.raises(DamagedArtifact, match=r"^one: .*progress"):
        train_bank(Bank(TRAIN, VALID, [member]))


def test_bank_waves_give_the_same_bytes(by_themselves: Path, tmp_path: Path):
    members = kept_in(tmp_path, MEMBERS[:4])
    roomy = Bank(TRAIN, VALID, members, workers=2)
    assert len(roomy.waves()) == 1
    tight = Bank(TRAIN, VALID, members, workers=2, memory_bytes=max(roomy.required_bytes.values()) * 2 + (20 << 20))
    assert [len(wave) for wave in tight.waves()] == [2, 2]
    assert sorted(m.name for wave in tight.waves() for m in wave) == sorted(m.name for m in members)
    train_bank(tight)
    for member in MEMBERS[:4]:
        same_bytes(by_themselves / member.name, tmp_path / member.name)


def test_bank_memory_error_suggests_latents():
    huge = BankMember(name="huge", latents=1_000_000, k=20)
    with pytest.raises(
        TrainingError,
        match=r"^huge: training 1000000 latents x 24 .* GiB.*; reduce to about \d+ latents",
    ):
        Bank(TRAIN, VALID, [MEMBERS[0], huge], memory_bytes=1 << 30)


def test_bank_suggested_latents_fit():
    with pytest.raises(TrainingError, match=r"reduce to about") as said:
        Bank(TRAIN, VALID, [BankMember(name="huge", latents=1_000_000, k=20)], memory_bytes=1 << 30)
    latents = int(str(said.value).split("about ")[1].split()[0])
    assert latents > 10_000
    Bank(TRAIN, VALID, [BankMember(name="fits", latents=latents, k=20)], memory_bytes=1 << 30)


@pytest.mark.parametrize("member", [MEMBERS[0], *MEMBERS[6:8]], ids=["kernels", "plain", "archetypal"])
def test_member_bytes_is_an_upper_bound(member: BankMember):
    bank = Bank(TRAIN, VALID, [member])
    run = begin(TRAIN, VALID, member.preset, latents=member.latents, k=member.k)
    run.stepper.step(run.sae.normalise(torch.from_numpy(TRAIN.array[:64])), learning_rate=1e-3)
    held = [*run.sae.state_dict().values(), *run.sae.state_dict().values(), *run.stepper.state().values()]
    held.append(run.start_atoms)
    kept = sum(value.numel() * value.element_size() for value in held)
    estimate = member_bytes(24, member.latents, bank.resolved[member.name])
    assert kept < estimate < bank.required_bytes[member.name]


def test_member_bytes_counts_the_latents_of_a_budget_beyond_k():
    sure, grown = (
        resolve(TRAIN, VALID, QUICK.model_copy(update={"sufficient_share": share}), latents=96, k=k)
        for share, k in ((None, 20), (0.98, 10))
    )
    assert member_bytes(24, 96, grown) == member_bytes(24, 96, sure)


def test_bank_accepts_statistics():
    rows = Counted(TRAIN)
    bank = Bank(rows, VALID, MEMBERS[:1], statistics=compute_statistics(TRAIN))
    assert sum(rows.taken) == TRAIN.height
    assert bank.statistics.height == TRAIN.height


def test_bank_member_errors_before_reading():
    rows = Counted(TRAIN)
    with pytest.raises(ConfigError, match=r"member names must be unique, got \['one', 'one'\]"):
        Bank(rows, VALID, [MEMBERS[0], MEMBERS[0]])
    with pytest.raises(ConfigError, match=r"^greedy: k=97 exceeds latents=96"):
        Bank(rows, VALID, [MEMBERS[0], BankMember(name="greedy", latents=96, k=97)])
    with pytest.raises(ConfigError, match=r"^odd: no training preset 'defualt'"):
        Bank(rows, VALID, [BankMember(name="odd", latents=96, k=9, preset="defualt")])
    with pytest.raises(TrainingError, match=r"^one: no validation rows"):
        Bank(rows, ArrayRows(np.zeros((0, 24), np.float32)), MEMBERS[:1])
    assert not rows.taken


def test_bank_divergence_error_names_the_member():
    wild = BankMember(name="wild", latents=96, k=5, preset=QUICK.model_copy(update={"learning_rate": 1e30}))
    with pytest.raises(TrainingError, match=r"^wild: the loss is not finite"):
        train_bank(Bank(TRAIN, VALID, [MEMBERS[0], wild], workers=2))


def test_one_thread_restores_the_number_of_threads():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
