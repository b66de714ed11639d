"""The bar on the terminal: updates done, time left, the latest loss. Silent where there is no terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """A progress bar over the share of the run that is done.

    Arguments:
        step, max_steps: Updates done, and in all.
        shown: Whether to draw it at all.
        console: Where to draw it; standard error by default.
    """

    def __init__(self, step: int, max_steps: int, shown: bool = True, console: Console | None = None):
        self.max_steps = max_steps
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.fields[step]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not (shown and console.is_terminal),
            transient=False,
        )
        self._task = self._progress.add_task("", total=1.0, step="", note="")
        self.show(step, step / max_steps)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: int, share: float) -> None:
        """After ``step`` updates, with this share of the run behind it, by updates or by time."""
        self._progress.update(self._task, completed=min(share, 1.0), step=f"step {step}/{self.max_steps}")

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)
