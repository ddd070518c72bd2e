"""Mistakes in what words a text is found by."""

from __future__ import annotations

from functools import partial

from tests.mutations.mutation import Mutation

_WORDS = "sql/migrations/*_lists_by_tag_unread_and_words.sql"

_in_words = partial(Mutation, file=_WORDS, tests=("tests/sql/test_words.py",))

WORDS = [
    _in_words(
        rule="words",
        change="forms of a letter are told apart",
        old="shown := left(normalize(shown, NFKC), 8000);",
        new="shown := shown;",
    ),
    _in_words(
        rule="words",
        change="runs are cut from their beginning only",
        old="FOR start IN 1 .. size LOOP",
        new="FOR start IN 1 .. 1 LOOP",
    ),
    _in_words(
        rule="words",
        change="letters are not cut into pieces",
        old="FOR size IN 2 .. 3 LOOP",
        new="FOR size IN 2 .. 2 LOOP",
    ),
    _in_words(
        rule="words",
        change="invisible signs part words",
        old="shown := translate(shown, E'\\u200B\\u200C\\u200D\\u2060\\uFE0E\\uFE0F', '');",
        new="",
    ),
    _in_words(
        rule="words",
        change="what is part of another piece is sought as well",
        old="WHERE NOT s.is_piece OR NOT EXISTS (",
        new="WHERE true OR NOT EXISTS (",
    ),
    _in_words(
        rule="words",
        change="a word that is part of another is not sought",
        old="WHERE NOT s.is_piece OR NOT EXISTS (\n        SELECT FROM sought AS o\n        WHERE o.is_piece AND ",
        new="WHERE NOT EXISTS (\n        SELECT FROM sought AS o\n        WHERE ",
    ),
]
