"""What a build shows while it runs: a bar per step on a terminal, and in any case one line when the step is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_NAME_WIDTH = 10


class Step:
    """One step that runs. Set `note` to what its line shall say."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.note = ""
        self._progress = progress
        self._task = progress.add_task(name, total=None)

    def tell(self, what: str) -> None:
        """Show what the step is at, beside its bar."""
        self._progress.update(self._task, description=what)

    def advance(self, done: int, total: int | None = None) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)


class Steps:
    """The steps of one build, on one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Show a bar while the step runs, and its line once it succeeded."""
        started = monotonic()
        with self._bar() as progress:
            step = Step(progress, name)
            yield step
        seconds = f"{monotonic() - started:.1f} s"
        self._console.print(
            f"{name:<{_NAME_WIDTH}} {seconds:>7}  {step.note}", highlight=False, markup=False, soft_wrap=True
        )

    def warn(self, text: str) -> None:
        """Say what the user should know and no step fails for."""
        self._console.print(
            f"{'warning':<{_NAME_WIDTH}} {'':>7}  {text}", highlight=False, markup=False, soft_wrap=True
        )

    def _bar(self) -> Progress:
        return Progress(
            TextColumn(f"{{task.description:<{_NAME_WIDTH}}}"),
            SpinnerColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
