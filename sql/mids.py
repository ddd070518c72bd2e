"""The one form in which a message's id is stored."""

from __future__ import annotations


def canonical_mid(mid: str, platform: str = "messenger") -> str:
    """Return the id as it is stored: on Messenger with the prefix `m_` that some doors leave out.

    Webhooks of old messages, and echoes in standby, carry ids without the prefix that Graph puts before the same id
    (microsoft/botframework-sdk #2950; restfb's fixtures). Instagram's ids are of another form and stay as they are.
    Ids are compared whole and case-sensitively: two ids of one thread share a long middle part.
    """
    if platform != "messenger" or mid.startswith("m_"):
        return mid
    return "m_" + mid
