"""Deliberate mistakes: for each rule of merging at least one, and the tests that have to notice it."""

from __future__ import annotations

from tests.mutations.conversations import CONVERSATIONS
from tests.mutations.erasures import ERASURES
from tests.mutations.messages import MESSAGES
from tests.mutations.mutation import Mutation
from tests.mutations.repairs import REPAIRS
from tests.mutations.writers import WRITERS

<<<<<<< HEAD
MUTATIONS = [*MESSAGES, *CONVERSATIONS, *ERASURES, *WRITERS]
=======
MUTATIONS = [*MESSAGES, *CONVERSATIONS, *REPAIRS, *WRITERS]
>>>>>>> 1ac5dfe (Break the rules of what is repaired on purpose, and find again what three mutations change)

__all__ = ["MUTATIONS", "Mutation"]
