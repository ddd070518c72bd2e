"""Page tokens at rest: Fernet, with several keys so that they can be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

if TYPE_CHECKING:
    from collections.abc import Sequence


class TokenUnreadableError(Exception):
    """A stored token fits none of the keys in TOKEN_ENCRYPTION_KEY: add the key it was stored with."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class TokenBox:
    """Encrypts with the first key, decrypts with any."""

    def __init__(self, keys: Sequence[str]) -> None:
        fernets = [Fernet(key) for key in keys]
        self._first, self._fernet = fernets[0], MultiFernet(fernets)

    def seal(self, token: str) -> str:
        """Encrypt a token for the database."""
        return self._fernet.encrypt(token.encode()).decode()

    def renewed(self, sealed: str) -> str | None:
        """Encrypt a stored token with the first key; None when it is already.

        Raises:
            TokenUnreadableError: none of the keys fits.

        """
        try:
            self._first.decrypt(sealed.encode())
        except InvalidToken:
            return self.seal(self.open(sealed))
        return None

    def open(self, sealed: str) -> str:
        """Decrypt a token of the database.

        Raises:
            TokenUnreadableError: none of the keys fits.

        """
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise TokenUnreadableError from None
