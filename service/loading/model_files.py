"""Whether a version was loaded from the files that are there now."""

from collections.abc import Mapping

from enginehouse.repository import version_from_name


class ModelFiles:
    """The state of a model's files at one look; nothing is known of them without one."""

    def __init__(self, states: Mapping[str, str] | None) -> None:
        self._states = states

    @property
    def is_known(self) -> bool:
        """Whether they were looked at."""
        return self._states is not None

    def are_those_of(self, earlier: "ModelFiles | None", version: int) -> bool:
        """Whether a version, and what all versions share, are as they were at an earlier look."""
        if earlier is None or self._states is None or earlier._states is None:
            return False
        return self._of(version) == earlier._of(version)

    def _of(self, version: int) -> dict[str, str]:
        """The files of a version and the model's own; not those of other versions, and not withdrawn ones."""
        assert self._states is not None
        return {
            path: state
            for path, state in self._states.items()
            if version_from_name(path.partition("/")[0]) in (None, version)
        }
