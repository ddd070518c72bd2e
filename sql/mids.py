"""The one form in which a message's id is stored, and how long an id may be."""

from __future__ import annotations

# Of an id as it is stored. An index entry of Postgres holds 2,704 bytes, and the largest has a Page's id (at the door
# 100 characters of four bytes), a person's, a mid and a time. Facebook's are below 200 and below 40 characters.
MAX_BYTES = 1000


def short_enough(stored: str) -> str:
    """Return the id as it is.

    Raises:
        ValueError: it has more than MAX_BYTES, so that no index could hold it.

    """
    if len(stored) * 4 > MAX_BYTES and len(stored.encode(errors="surrogatepass")) > MAX_BYTES:
        raise ValueError(f"an id has at most {MAX_BYTES} bytes")
    return stored


def canonical_mid(mid: str, platform: str = "messenger") -> str:
    """Return the id as it is stored: on Messenger with the prefix `m_` that some doors leave out.

    Webhooks of old messages, and echoes in standby, carry ids without the prefix that Graph puts before the same id
    (microsoft/botframework-sdk #2950; restfb's fixtures). Instagram's ids are of another form and stay as they are.
    Ids are compared whole and case-sensitively: two ids of one thread share a long middle part.
    """
    if platform != "messenger" or mid.startswith("m_"):
        return mid
    return "m_" + mid
