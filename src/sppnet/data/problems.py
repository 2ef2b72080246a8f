"""What is odd in the files of a data set, in sentences: what recurs is counted and told once."""

from collections.abc import Iterable, Iterator

NAMED = 3
"""Examples that a sentence names."""


class Problems:
    """Sentences that fill while files are read.

    `add` is for what is odd once; `count` for what may recur with every image or line.
    """

    def __init__(self) -> None:
        self._single: list[str] = []
        self._counted: dict[tuple[str, str], list[str]] = {}

    def add(self, sentence: str) -> None:
        self._single.append(sentence)

    def count(self, what: str, outcome: str, examples: str | Iterable[str]) -> None:
        """what: the plural of the odd things; outcome: what is made of them."""
        found = [examples] if isinstance(examples, str) else list(examples)
        if found:
            self._counted.setdefault((what, outcome), []).extend(found)

    def __iter__(self) -> Iterator[str]:
        yield from self._single
        for (what, outcome), examples in self._counted.items():
            named = ", ".join(examples[:NAMED])
            yield f"{len(examples)} {what}, such as {named}; {outcome}"
