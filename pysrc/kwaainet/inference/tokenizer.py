"""Text to token ids and back: byte-level or SentencePiece BPE in pure Python, so that it runs in a tab too.

Follows Hugging Face ``tokenizers``' BPE and its ``ByteLevel`` decoder (the test oracle). Rule of
the file: a text of any length costs n log n, and no piece of text comes out with half a character.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any
from unicodedata import normalize

from ..errors import InputError
from . import sentencepiece
from .pretokenizer import split
from .vocabulary import Vocabulary

_MAX_CACHED = 1 << 14  # words, so that a long-lived client's memory stays bounded


def _byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_ALPHABET = _byte_alphabet()
_BYTES = {character: byte for byte, character in enumerate(_ALPHABET)}


class Tokenizer:
    """Encodes and decodes with one vocabulary; holds no state but a bounded cache."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
        self._tokens = {number: token for token, number in vocabulary.ids.items()}
        self._added = {number: token for token, number in vocabulary.added.items()}
        self._special = frozenset(
            vocabulary.added[token] for token in vocabulary.special & vocabulary.added.keys()
        )
        self._find_added = _finder(vocabulary.added)
        self._find_plain = _finder(vocabulary.added.keys() - vocabulary.special)
        self._cache: dict[str, tuple[int, ...]] = {}

    @classmethod
    def from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From a GGUF file's ``tokenizer.ggml.*``. Raises ``ModelFileError``, ``UnsupportedModel``."""
        return cls(Vocabulary.from_gguf(metadata))

    @classmethod
    def from_json(cls, text: str | bytes) -> Tokenizer:
        """From ``tokenizer.json``. Raises ``ModelFileError``, ``UnsupportedModel``."""
        return cls(Vocabulary.from_json(text))

    def encode(self, text: str, *, special: bool = True, prefix: bool = True) -> list[int]:
        """Token ids of ``text``.

        ``special``: control tokens written in the text count as such (leave it out for text of
        strangers). ``prefix``: begin with what the model wants at the start of a text, unless the
        text does so itself. Raises ``InputError`` if ``text`` has lone surrogates.
        """
        vocabulary = self.vocabulary
        ids: list[int] = []
        find, end = (self._find_added if special else self._find_plain), 0
        for match in find.finditer(text) if find else ():
            ids += self._encode_plain(text[end : match.start()])
            ids.append(vocabulary.added[match[0]])
            end = match.end()
        ids += self._encode_plain(text[end:])
        if prefix and tuple(ids[: len(vocabulary.prefix)]) != vocabulary.prefix:
            ids[:0] = vocabulary.prefix
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of ``ids``; ids without a token say nothing, broken UTF-8 becomes U+FFFD."""
        text = b"".join(self._token_bytes(number, skip_special) for number in ids).decode(errors="replace")
        return text.removeprefix(" ") if self.vocabulary.space_prefix else text

    def decoder(self, *, skip_special: bool = True) -> Decoder:
        """For a text that arrives token by token."""
        return Decoder(self, skip_special)

    def token_id(self, token: str) -> int | None:
        """The id of a token as it is written in the vocabulary (``<|im_end|>``)."""
        number = self.vocabulary.added.get(token)
        return self.vocabulary.ids.get(token) if number is None else number

    def token(self, number: int) -> str | None:
        """Inverse of ``token_id``."""
        return self._added.get(number, self._tokens.get(number))

    def _token_bytes(self, number: int, skip_special: bool) -> bytes:
        if number in self._added:
            return (
                b""
                if skip_special and number in self._special
                else self._added[number].encode(errors="replace")
            )
        token = self._tokens.get(number, "")
        if self.vocabulary.kind == sentencepiece.KIND:
            return sentencepiece.token_bytes(token)
        if all(character in _BYTES for character in token):
            return bytes(_BYTES[character] for character in token)
        return token.encode(errors="replace")

    def _encode_plain(self, text: str) -> Iterator[int]:
        if self.vocabulary.kind == sentencepiece.KIND:
            yield from self._encode_pieces(text)
            return
        if self.vocabulary.nfc:
            text = normalize("NFC", text)
        for word in split(text, self.vocabulary.kind):
            ids = self._cache.get(word)
            if ids is None:
                ids = self._encode_word(word)
                if len(self._cache) < _MAX_CACHED and len(word) < 64:
                    self._cache[word] = ids
            yield from ids

    def _encode_pieces(self, text: str) -> Iterator[int]:
        known, prefixed = self.vocabulary.ids, self.vocabulary.space_prefix
        try:
            spelt = list(sentencepiece.symbols(text, known, space_prefix=prefixed))
        except UnicodeEncodeError as error:
            raise InputError(f"the text has a lone surrogate in {text[:40]!r}: {error.reason}") from None
        yield from (known[symbol] for symbol in merge(spelt, self._ranks))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        try:
            spelt = "".join(_ALPHABET[byte] for byte in word.encode())
        except UnicodeEncodeError as error:
            raise InputError(f"the text has a lone surrogate in {word[:40]!r}: {error.reason}") from None
        known = self.vocabulary.ids
        if self.vocabulary.ignore_merges and spelt in known:
            return (known[spelt],)
        return tuple(known[symbol] for symbol in merge([c for c in spelt if c in known], self._ranks))


class Decoder:
    """Turns tokens into text as they come."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, number: int) -> str:
        """The text that one more token completes; empty while a character is not whole."""
        return self._utf8.decode(self._tokenizer._token_bytes(number, self._skip_special))

    def finish(self) -> str:
        """What is left: U+FFFD if the text ends within a character."""
        return self._utf8.decode(b"", final=True)


def merge(symbols: Sequence[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Join neighbours, the lowest rank first and of equal ones the leftmost, until none is left."""
    parts, count = list(symbols), len(symbols)
    before, after = list(range(-1, count)), list(range(1, count + 1))
    heap: list[tuple[int, int]] = []

    def consider(left: int) -> None:
        if left >= 0 and after[left] < count:
            rank = ranks.get((parts[left], parts[after[left]]))
            if rank is not None:
                heappush(heap, (rank, left))

    for left in range(count - 1):
        consider(left)
    while heap:
        rank, left = heappop(heap)
        right = after[left]
        if right >= count or ranks.get((parts[left], parts[right])) != rank:
            continue  # one of the two has been joined to another since
        parts[left] += parts[right]
        parts[right] = ""
        after[left] = after[right]
        before[after[right]] = left
        consider(left)
        consider(before[left])
    return [part for part in parts if part]


def _finder(tokens: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
