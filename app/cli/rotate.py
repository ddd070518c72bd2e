"""`rotate-key`: encrypt the Pages' tokens anew."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from app.cli.session import console, opened, read_settings
from app.rotating import rotate_key
from app.settings import Settings
from reconciler.tokens import TokenBox

if TYPE_CHECKING:
    from app.rotating import Rotated


def rotate() -> None:
    """Encrypt every Page token with the first key of TOKEN_ENCRYPTION_KEY; then the others may go."""
    settings = read_settings(Settings)

    async def work() -> Rotated:
        async with opened(settings) as pool:
            return await rotate_key(pool, TokenBox(settings.encryption_keys))

    done = asyncio.run(work())
    console.print(f"{done.renewed} tokens encrypted anew, {done.current} were already under the first key")
    if done.unreadable:
        console.print(
            f"no key fits the tokens of {', '.join(done.unreadable)}: add the key they were stored with to "
            "TOKEN_ENCRYPTION_KEY, or add these Pages again"
        )
        raise typer.Exit(1)
