"""Names of tags in requests: in a path, and several in a parameter."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

MOST = 20
_RULE = (
    "a tag's name has 1 to 100 characters, without commas, slashes and control characters, no space around it, "
    "and is neither . nor .."
)


def check_name(name: str) -> str:
    """Return a tag's name as it is.

    Raises:
        ValueError: no tag can be called so.

    """
    # a comma separates names in a parameter, and a slash the parts of a path, where clients resolve . and ..
    if name != name.strip() or name in {".", ".."} or not re.fullmatch(r"[^\x00-\x1f\x7f,/]{1,100}", name):
        raise ValueError(_RULE)
    return name


def _several(value: object) -> object:
    """Separate names; given more than once, the parameter is a list."""
    parts = value if isinstance(value, list) else [value]
    names = [name.strip() for part in parts if isinstance(part, str) for name in part.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


TagName = Annotated[str, AfterValidator(check_name)]
TagNames = Annotated[tuple[TagName, ...], Field(max_length=MOST), BeforeValidator(_several)]
