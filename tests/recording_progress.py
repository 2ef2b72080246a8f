"""A listener to progress, for tests of what is told."""


class RecordingProgress:
    """Keeps each stage with its number of steps, and each advance with its note."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.advances: list[tuple[int, str]] = []

    def begin(self, stage: str, total: int) -> None:
        self.stages.append((stage, total))

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.advances.append((steps, note))

    @property
    def done(self) -> int:
        """Steps of all stages."""
        return sum(steps for steps, _ in self.advances)
