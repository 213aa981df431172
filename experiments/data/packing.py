"""Documents to windows of bytes: every row of a batch reads on where it stopped, document after document."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.data.loading import SEPARATOR, document_bytes
from experiments.errors import DatasetError


class PackedText(Iterator[tuple[np.ndarray, np.ndarray]]):
    """Batches of consecutive windows, packed without padding.

    Row r of a batch continues row r of the batch before. A row that has come to the end of its document takes the
    next one that no row has taken; a zero byte ends each document. So a batch mixes as many documents
    as it has rows, and a position is two numbers a row.

    Example:
      >>> inputs, targets = next(PackedText([{"text": "abc"}, {"text": "defg"}], rows=1, window=4))
      >>> bytes(inputs[0]), bytes(targets[0])
      (b'abc\\x00', b'bc\\x00d')
    """

    def __init__(self, documents: Sequence[Mapping[str, Any]], rows: int, window: int) -> None:
        """Starts at the first document.

        Args:
          documents: records with ``text``, str or bytes; may be endless.
          rows: examples of a batch.
          window: bytes of an example.
        """
        self._documents, self._window = documents, window
        self._next = 0  # the first document that no row has taken
        self._row_documents = [-1] * rows
        self._rests = [np.empty(0, np.uint8)] * rows

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        """Takes the next batch; the last windows, too few to fill one, are left out.

        Returns:
          Inputs and targets, uint8 (rows, window).

        Raises:
          StopIteration: the documents are used up.
        """
        filled = [self._fill(row) for row in range(len(self._rests))]
        windows = np.stack([tokens[: self._window + 1] for tokens in filled])
        self._rests = [tokens[self._window :] for tokens in filled]
        return windows[:, :-1], windows[:, 1:]

    def _fill(self, row: int) -> np.ndarray:
        pieces, length = [self._rests[row]], len(self._rests[row])
        while length <= self._window:
            if self._next >= len(self._documents):
                raise StopIteration
            pieces += self._read(self._next)
            length += len(pieces[-2]) + 1
            self._row_documents[row] = self._next
            self._next += 1
        return np.concatenate(pieces)

    def _read(self, index: int) -> list[np.ndarray]:
        return [document_bytes(self._documents[index]["text"]), np.full(1, SEPARATOR, np.uint8)]

    def get_state(self) -> dict[str, Any]:
        """Says where every row is.

        Returns:
          Numbers that JSON can hold. What a row has left always is the end of one document.
        """
        return {
            "next": self._next,
            "documents": list(self._row_documents),
            "left": [len(rest) for rest in self._rests],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes where another one was; reads one document a row.

        Args:
          state: from `get_state`.

        Raises:
          DatasetError: it has another number of rows, or the documents are not the same.
        """
        if len(state["left"]) != len(self._rests):
            raise DatasetError(
                f"The position is of {len(state['left'])} rows and this text has {len(self._rests)}: "
                "keep the batch size and the number of processes."
            )
        rests = []
        for document, left in zip(state["documents"], state["left"], strict=True):
            tokens = np.concatenate(self._read(document)) if left else np.empty(0, np.uint8)
            if left > len(tokens):
                raise DatasetError(
                    f"Document {document} is shorter than the position in it: the text has changed."
                )
            rests.append(tokens[len(tokens) - left :])
        self._next, self._row_documents, self._rests = state["next"], list(state["documents"]), rests
