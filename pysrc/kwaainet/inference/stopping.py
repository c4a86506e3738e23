"""Ending a completion before a stop sequence, whatever pieces its text arrives in.

Follows OpenAI's ``stop`` (the sequence itself is not part of the text) and vLLM's and llama.cpp's
reading of it on text, so that a sequence may span tokens. Rule of the file: what has come out never
depends on how the text was cut into pieces; text is held back only while it may begin a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable


class StopMatcher:
    """Feed it text; it gives back what may be shown. The sequence that ends first counts."""

    def __init__(self, sequences: Iterable[str] = ()) -> None:
        self._sequences = tuple(sequence for sequence in sequences if sequence)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that is certain now; empty once ``stopped``."""
        if self.stopped:
            return ""
        self._held += text
        end = min((self._end_of(sequence) for sequence in self._sequences), default=len(self._held) + 1)
        if end <= len(self._held):
            self.stopped = True
            longest = max(len(one) for one in self._sequences if self._held.endswith(one, 0, end))
            shown, self._held = self._held[: end - longest], ""
            return shown
        keep = max((_overlap(self._held, sequence) for sequence in self._sequences), default=0)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown

    def finish(self) -> str:
        """What was held back in vain, when the text has ended by itself."""
        held, self._held = self._held, ""
        return held

    def _end_of(self, sequence: str) -> int:
        """Where its first occurrence ends; beyond the text if there is none."""
        found = self._held.find(sequence)
        return len(self._held) + 1 if found < 0 else found + len(sequence)


def _overlap(text: str, sequence: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``sequence``."""
    most = min(len(text), len(sequence) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(sequence[:size])), 0)
