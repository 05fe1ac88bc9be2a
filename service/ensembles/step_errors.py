"""Errors of steps as the callers of an ensemble read them: where it happened in front, everything else as it was."""

from enginehouse.errors import Error


def in_step(name: str, reason: Error) -> Error:
    """The same error, naming the step that it came from unless it does so itself."""
    return reason if f"'{name}'" in str(reason) else _worded(reason, f"{reason} (step '{name}')")


def in_ensemble(name: str, reason: Error) -> Error:
    """The same error, naming the ensemble that it happened in."""
    return _worded(reason, f"in ensemble '{name}', {reason}")


def _worded(reason: Error, text: str) -> Error:
    """The same error in other words; what else it carries stays."""
    # Not by its constructor, which may want something else than a text.
    other = type(reason).__new__(type(reason), text)
    other.__dict__.update(reason.__dict__)
    return other
