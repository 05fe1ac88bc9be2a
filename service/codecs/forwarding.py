"""Header forwarding: what of a request's head a model sees, as parameters of the request."""

import re
from collections.abc import Iterable

from enginehouse.errors import InvalidInput

_CASE_SENSITIVE = "(?-i)"


class HeaderPattern:
    """Names of headers that are forwarded: those in which the pattern is found, in any case.

    Args:
        pattern: a regular expression, in which a leading `(?-i)` makes case matter; empty forwards nothing.

    Raises:
        InvalidInput: it is no regular expression.
    """

    def __init__(self, pattern: str) -> None:
        flags = 0 if pattern.startswith(_CASE_SENSITIVE) else re.IGNORECASE
        try:
            self._pattern = re.compile(pattern.removeprefix(_CASE_SENSITIVE), flags) if pattern else None
        except re.error as problem:
            raise InvalidInput(f"header forward pattern '{pattern}' is no regular expression: {problem}.") from problem

    def __bool__(self) -> bool:
        return self._pattern is not None

    def parameters(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The headers that are forwarded, by their names as they were sent; the last of several counts."""
        if self._pattern is None:
            return {}
        return {name: value for name, value in headers if self._pattern.search(name)}
