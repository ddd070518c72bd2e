"""Keys: how they are made, found and revoked, and how often each may ask."""

from __future__ import annotations

import asyncio
import hmac
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from app import keys
from app.keys import BETWEEN_READINGS_SECONDS, READ_AGAIN_SECONDS, Key, KeyRing, Role, new_key
from app.rate import BURST_SECONDS, Rate
from sql.api_keys import add_key, list_keys, revoke_key
from tests.app.service import API_KEY, OLD_API_KEY

if TYPE_CHECKING:
    from sql.pool import Pool

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Time as a test tells it; who sleeps moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class CountedPool:
    """A pool that counts who takes a connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.taken = 0

    def acquire(self) -> object:
        self.taken += 1
        return self._pool.acquire()


class Ring(KeyRing):
    """A ring with a clock of the test's, and a count of its readings."""

    def __init__(self, pool: Pool) -> None:
        self.clock, self.counted = Clock(), CountedPool(pool)
        super().__init__(self.counted, [API_KEY, OLD_API_KEY], clock=self.clock, sleep=self.clock.sleep)  # type: ignore[arg-type]


@pytest.fixture
def ring(pool: Pool) -> Ring:
    return Ring(pool)


async def made(pool: Pool, role: str = "read") -> tuple[str, bytes]:
    """A key as another process would make it: its id and itself."""
    key_id, key, digest = new_key()
    async with pool.acquire() as connection:
        await add_key(connection, key_id, digest, name="somebody", role=role, created_by="cli", now=NOON)
    return key_id, key.encode()


async def revoke(pool: Pool, key_id: str) -> bool:
    async with pool.acquire() as connection:
        return await revoke_key(connection, key_id, NOON)


def test_roles_may_do_what_those_before_them_may() -> None:
    assert Role.READ < Role.OPERATE < Role.ADMIN
    assert [role.word for role in Role] == ["read", "operate", "admin"]


def test_no_two_keys_are_alike_and_each_holds_its_id() -> None:
    made_keys = [new_key() for _ in range(100)]
    assert len({key for _, key, _ in made_keys}) == 100
    for key_id, key, digest in made_keys:
        assert key.split("_")[:2] == ["mm", key_id]
        assert digest == sha256(key.encode()).digest()


async def test_a_key_is_found_with_its_role_and_nothing_like_it_is(pool: Pool, ring: Ring) -> None:
    key_id, key = await made(pool, "operate")
    assert await ring.find(key) == Key(key_id, Role.OPERATE)
    another_id, another = await made(pool)
    mixed = another.replace(another_id.encode(), key_id.encode())
    for wrong in (key[:-1], key + b"x", key.upper(), mixed, b"", b"mm_", b"mm_" + key_id.encode(), b"\xff\x00"):
        assert await ring.find(wrong) is None


async def test_the_settings_keys_are_admins_and_need_no_database(ring: Ring) -> None:
    assert await ring.find(API_KEY.encode()) == Key("ops-1", Role.ADMIN)
    assert await ring.find(OLD_API_KEY.encode()) == Key("ops-2", Role.ADMIN)
    assert ring.counted.taken == 0


async def test_every_comparison_takes_constant_time_and_every_settings_key_is_compared(
    pool: Pool, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return hmac.compare_digest(given, known)

    monkeypatch.setattr(keys, "hmac", type("Watched", (), {"compare_digest": staticmethod(compare)}))
    ops = [sha256(key.encode()).digest() for key in (API_KEY, OLD_API_KEY)]
    for key in (API_KEY.encode(), OLD_API_KEY.encode(), b"wrong"):
        compared.clear()
        await ring.find(key)
        assert compared == ops
    _, key = await made(pool)
    compared.clear()
    await ring.find(key)
    assert compared == [*ops, sha256(key).digest()]


async def test_a_key_is_looked_up_once_in_a_while_however_often_it_asks(pool: Pool, ring: Ring) -> None:
    _, key = await made(pool)
    for _ in range(100):
        assert await ring.find(key)
    assert ring.counted.taken == 1


async def test_a_revoked_key_is_refused_within_seconds_elsewhere_and_at_once_here(pool: Pool, ring: Ring) -> None:
    (first_id, first), (second_id, second) = await made(pool), await made(pool)
    assert await ring.find(first)
    await revoke(pool, first_id)
    ring.clock.now += READ_AGAIN_SECONDS + 0.01
    assert await ring.find(first) is None
    assert await ring.find(second)
    await revoke(pool, second_id)
    ring.forget()
    assert await ring.find(second) is None


async def test_a_key_that_another_process_made_a_moment_ago_is_good(pool: Pool, ring: Ring) -> None:
    _, first = await made(pool)
    assert await ring.find(first)
    _, second = await made(pool)
    assert await ring.find(second)


async def test_guessing_costs_the_database_next_to_nothing(pool: Pool, ring: Ring) -> None:
    guesses = [new_key()[1].encode() for _ in range(200)]
    began = ring.clock.now
    assert await asyncio.gather(*(ring.find(guess) for guess in guesses)) == [None] * len(guesses)
    assert ring.counted.taken <= 2
    for guess in guesses:
        await ring.find(guess)
    assert ring.counted.taken <= (ring.clock.now - began) / BETWEEN_READINGS_SECONDS + 2
    assert await made(pool)


async def test_revoking_twice_keeps_the_first_time_and_an_unknown_key_is_told(pool: Pool) -> None:
    key_id, _ = await made(pool)
    assert await revoke(pool, key_id)
    assert await revoke(pool, key_id)
    assert not await revoke(pool, "0" * 12)
    async with pool.acquire() as connection:
        [row] = await list_keys(connection)
    assert row["revoked_at"] == NOON


async def test_what_is_stored_is_no_key(pool: Pool) -> None:
    key_id, key = await made(pool)
    async with pool.acquire() as connection:
        row = await connection.fetchrow("SELECT * FROM api_keys")
    assert row is not None
    secret = key.decode().removeprefix(f"mm_{key_id}_")
    assert secret not in str(dict(row))
    assert row["digest"] == sha256(key).digest()


# -- how often ----------------------------------------------------------------------------------------------------


def test_a_key_may_ask_so_often_in_the_mean_and_is_told_how_long_to_wait() -> None:
    clock = Clock()
    rate = Rate(2, clock=clock)
    burst = int(2 * BURST_SECONDS)
    assert [rate.wait("a") for _ in range(burst)] == [0] * burst
    assert rate.wait("a") == pytest.approx(0.5)
    assert rate.wait("a") == pytest.approx(0.5)  # being refused costs nothing
    assert rate.wait("b") == 0
    clock.now += 0.5
    assert rate.wait("a") == 0
    assert rate.wait("a") > 0
    clock.now += 1000
    assert [rate.wait("a") for _ in range(burst)] == [0] * burst
    assert rate.wait("a") > 0


def test_a_rate_below_one_in_ten_seconds_still_lets_one_through() -> None:
    clock = Clock()
    rate = Rate(0.01, clock=clock)
    assert rate.wait("a") == 0
    assert rate.wait("a") == pytest.approx(100)
    clock.now += 100
    assert rate.wait("a") == 0


def test_without_a_limit_nobody_waits() -> None:
    rate = Rate(0)
    assert [rate.wait("a") for _ in range(10_000)] == [0] * 10_000
