"""Chance by arithmetic: what a dice shows depends on its key alone, so a world need not be stored to be the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def mix(*parts: int) -> int:
    """Mix whole numbers to one of 64 bits (the finalizer of splitmix64, once for each)."""
    state = 0x243F6A8885A308D3
    for part in parts:
        state = (state + part + _GAMMA) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state


class Dice:
    """A stream of chance (splitmix64) that starts where its key says."""

    __slots__ = ("_state",)

    def __init__(self, *key: int) -> None:
        self._state = mix(*key)

    def bits(self) -> int:
        """64 bits."""
        self._state = state = (self._state + _GAMMA) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        return state ^ (state >> 31)

    def below(self, limit: int) -> int:
        """Return a whole number in [0, limit)."""
        return self.bits() % limit

    def chance(self, probability: float) -> bool:
        """Say yes with this probability, 0 to 1."""
        return self.bits() < probability * 18446744073709551616.0

    def pick(self, values: Sequence[T]) -> T:
        """Return one of the values."""
        return values[self.bits() % len(values)]
