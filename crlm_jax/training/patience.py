"""When a training ends because its validation no longer improves."""

from collections.abc import Iterable


class Patience:
    """Counts the validations since the best one.

    Args:
      limit: validations in a row without a better DSC that are borne; 0: any number.
      before: the DSCs of a run that goes on, in their order.
    """

    def __init__(self, limit: int, before: Iterable[float] = ()):
        self._limit, self._best, self._since = limit, -1.0, 0
        for dsc in before:
            self.add(dsc)

    def add(self, dsc: float) -> None:
        """Takes the DSC of a validation; an equal one is not better."""
        self._since = 0 if dsc > self._best else self._since + 1
        self._best = max(self._best, dsc)

    @property
    def over(self) -> bool:
        """Whether the training ends."""
        return 0 < self._limit <= self._since
