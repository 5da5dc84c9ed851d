"""Whether a bank can be trained and fits, worked out before anything is read."""

from collections.abc import Sequence
from typing import NamedTuple

from otoscope.errors import ConfigError
from otoscope.sae.draft import Draft, draft
from otoscope.sae.memory import budget, member_bytes, require_fit, rows_bytes
from otoscope.sae.rows import Rows
from otoscope.sae.seat import SLICE_BYTES, Member, named

HELD_SHARE = 0.25
"""Rows that take up less than this share of the memory allowed are read once and kept."""


class Room(NamedTuple):
    """What each member will be and needs, what all may take together, and what rows may take to be kept."""

    drafts: dict[str, Draft]
    needs: dict[str, int]
    members_bytes: int
    held_bytes: int


def find_room(rows: Rows, valid_rows: Rows, members: Sequence[Member], *, memory_bytes: int | None = None) -> Room:
    """Return the room of a bank.

    Raises `ConfigError` for settings, `TrainingError` for a member that does not fit by itself, and for rows as far as
    their number, width and kind tell.
    """
    if len({member.name for member in members}) < len(members):
        raise ConfigError(f"each member needs a name of its own, got {[member.name for member in members]}")
    allowed = budget(memory_bytes)
    drafts = {member.name: _draft(member, rows, valid_rows) for member in members}
    held_bytes = int(HELD_SHARE * allowed)
    kept = [part for part in (rows, valid_rows) if rows_bytes(part) <= held_bytes]
    members_bytes = allowed - sum(map(rows_bytes, kept)) - SLICE_BYTES
    needs: dict[str, int] = {}
    for member in members:
        made = drafts[member.name]
        # two slices of batches: at worst no other member shares its order
        needs[member.name] = member_bytes(rows.width, member.latents, made) + SLICE_BYTES
        require_fit(
            needs[member.name],
            members_bytes,
            fixed=member_bytes(rows.width, 0, made) + SLICE_BYTES,
            width=rows.width,
            latents=member.latents,
            name=member.name,
        )
    return Room(drafts, needs, members_bytes, held_bytes)


def _draft(member: Member, rows: Rows, valid_rows: Rows) -> Draft:
    with named(member.name):
        return draft(rows, valid_rows, member.preset, latents=member.latents, k=member.k, seed=member.seed)
