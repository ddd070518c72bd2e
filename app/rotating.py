"""Encrypt the Pages' tokens anew, with the first of the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reconciler.tokens import TokenUnreadableError
from sql.page_tokens import replace_sealed_token, sealed_tokens

if TYPE_CHECKING:
    from reconciler.tokens import TokenBox
    from sql.pool import Pool


class Rotated(NamedTuple):
    """Tokens that were encrypted anew, those that the first key fits already, and the Pages whose token no key fits."""

    renewed: int
    current: int
    unreadable: list[str]


async def rotate_key(pool: Pool, tokens: TokenBox) -> Rotated:
    """Encrypt every token with the first key: then the others may be taken out of TOKEN_ENCRYPTION_KEY."""
    renewed = current = 0
    unreadable = []
    async with pool.acquire() as connection:
        for page_id, sealed in (await sealed_tokens(connection)).items():
            try:
                new = tokens.renewed(sealed)
            except TokenUnreadableError:
                unreadable.append(page_id)
                continue
            if new is None:
                current += 1
            elif await replace_sealed_token(connection, page_id, sealed, new):
                renewed += 1
    return Rotated(renewed, current, unreadable)
