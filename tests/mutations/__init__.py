"""Deliberate mistakes: for each rule of merging at least one, and the tests that have to notice it."""

from __future__ import annotations

from tests.mutations.conversations import CONVERSATIONS
from tests.mutations.erasures import ERASURES
from tests.mutations.feed import FEED
from tests.mutations.messages import MESSAGES
from tests.mutations.mutation import Mutation
from tests.mutations.repairs import REPAIRS
from tests.mutations.words import WORDS
from tests.mutations.writers import WRITERS

MUTATIONS = [*MESSAGES, *CONVERSATIONS, *ERASURES, *REPAIRS, *FEED, *WORDS, *WRITERS]

__all__ = ["MUTATIONS", "Mutation"]
