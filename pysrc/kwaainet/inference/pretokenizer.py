"""Cuts text into the words that byte-level BPE works on, without the ``regex`` package.

Follows Hugging Face ``tokenizers``' ``ByteLevel``, ``Digits`` and ``Split`` for the kinds named as
llama.cpp names them. Rule of the file: every character becomes its class, one letter each, so that
the models' own patterns run on Python's ``re``, which knows no ``\\p{L}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from unicodedata import category

# Letters the patterns name stand for themselves (ſ is an s to a pattern that ignores case); other
# letters are "a", numbers "0", spaces " ", line ends "\n", other white space "\t", the rest "!".
_NAMED = frozenset("'stremvldSTREMVLDſ ")
_LINE_ENDS = frozenset("\r\n")
_WHITE = frozenset("\t\x0b\x0c\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | set(
    map(chr, range(0x2000, 0x200B))
)


class _Classes(dict[int, str]):
    """A table for ``str.translate`` that fills itself."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _classify(chr(code))
        return found


def _classify(character: str) -> str:
    if character in _NAMED:
        return character
    if character in _LINE_ENDS:
        return "\n"
    if character in _WHITE:
        return "\t"
    return {"L": "a", "N": "0"}.get(category(character)[0], "!")


_CLASSES = _Classes()
_L, _S, _O = "[A-Za-zſ]", r"[ \t\n]", "[!']"  # \p{L}, \s, and neither those nor \p{N}
_GPT_2 = re.compile(rf"'s|'t|'re|'ve|'m|'ll|'d| ?{_L}+| ?0+| ?{_O}+|{_S}+(?![^ \t\n])|{_S}+")
_APOSTROPHES = r"'[sStTmMdDſ]|'[rRvV][eE]|'[lL][lL]"
_OTHERS = rf" ?{_O}+\n*|{_S}*\n+|{_S}+(?![^ \t\n])|{_S}+"
_LLAMA_3 = re.compile(rf"{_APOSTROPHES}|[^\n0A-Za-zſ]?{_L}+|0{{1,3}}|{_OTHERS}")
_QWEN_2 = re.compile(rf"{_APOSTROPHES}|[^\n0A-Za-zſ]?{_L}+|0|{_OTHERS}")
_DIGIT = re.compile("0")

# Each stage cuts what the one before it left, seeing one piece at a time.
KINDS = {
    "gpt-2": (_GPT_2,),
    "smollm": (_DIGIT, _GPT_2),
    "llama-3": (_LLAMA_3,),
    "qwen2": (_QWEN_2,),
}


def split(text: str, kind: str) -> Iterator[str]:
    """The words of ``text``, in order and without loss; ``kind`` is one of ``KINDS``."""
    position = 0
    for piece in _cut(text.translate(_CLASSES), KINDS[kind]):
        yield text[position : position + len(piece)]
        position += len(piece)


def _cut(classes: str, stages: tuple[re.Pattern[str], ...]) -> Iterator[str]:
    if not stages:
        yield classes
        return
    end = 0
    for match in stages[0].finditer(classes):
        if match.start() > end:
            yield from _cut(classes[end : match.start()], stages[1:])
        yield from _cut(match[0], stages[1:])
        end = match.end()
    if end < len(classes):
        yield from _cut(classes[end:], stages[1:])
