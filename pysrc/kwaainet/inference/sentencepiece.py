"""SentencePiece's BPE as Llama 2, Mistral and Gemma use it, in the words of ``tokenizer.json``.

Follows ``transformers``' ``convert_slow_tokenizer.py`` (merges from scores; the legacy Llama form) and
llama.cpp's SPM tokenizer. Rule of the file: spaces become U+2581 and count as letters, a text is one
word, and a character that is no token is written as its UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import ModelFileError

KIND = "sentencepiece"
SPACE = "\u2581"
UNKNOWN = "<unk>"
MAX_TOKEN_CHARACTERS = 128  # of a token that merges make; SentencePiece's own default is 16
MAX_CHARACTERS = 1 << 23  # of all tokens; a vocabulary of 256k takes 2 million

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
_BYTES = {token: bytes([byte]) for byte, token in enumerate(BYTE_TOKENS)}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_RESTORE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
_DECODERS = [_RESTORE, {"type": "ByteFallback"}, {"type": "Fuse"}]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
NORMALIZERS: dict[bool, dict[str, Any]] = {  # by whether a text gets a space before it
    True: {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _REPLACE]},
    False: _REPLACE,
}
DECODERS: dict[bool, dict[str, Any]] = {
    True: {"type": "Sequence", "decoders": [*_DECODERS, _STRIP]},
    False: {"type": "Sequence", "decoders": _DECODERS},
}


def merges_of(ids: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token of ``scores``, those of the best score first.

    Raises ``ModelFileError`` where tokens are too long for this to end soon.
    """
    if sum(map(len, scores)) > MAX_CHARACTERS or max(map(len, scores), default=0) > MAX_TOKEN_CHARACTERS:
        raise ModelFileError(
            f"a SentencePiece token may have {MAX_TOKEN_CHARACTERS} characters, all of them {MAX_CHARACTERS}"
        )
    pairs: list[tuple[str, str]] = []
    for token in sorted(scores, key=lambda token: -scores[token]):
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        known = [pair for pair in cuts if pair[0] in ids and pair[1] in ids]
        pairs += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return pairs


def symbols(text: str, ids: Mapping[str, int], *, space_prefix: bool) -> Iterator[str]:
    """What merging starts from: characters, or their bytes' tokens; what has neither is ``UNKNOWN``."""
    unknown = False
    for character in (SPACE if space_prefix and text else "") + text.replace(" ", SPACE):
        found = [character] if character in ids else [BYTE_TOKENS[byte] for byte in character.encode()]
        lacking = any(symbol not in ids for symbol in found)
        if not lacking:
            yield from found
        elif not unknown and UNKNOWN in ids:
            yield UNKNOWN
        unknown = lacking


def token_bytes(token: str) -> bytes:
    """What a token says."""
    return _BYTES.get(token) or token.replace(SPACE, " ").encode(errors="replace")


def gguf_scores(tokens: Sequence[str], types: Sequence[Any], scores: Any) -> dict[str, float]:
    """The scores of the normal tokens of a GGUF file (all, where it has no types)."""
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelFileError("tokenizer.ggml.scores must be a list of a number for each token")
    if not all(isinstance(score, int | float) and score == score for score in scores):
        raise ModelFileError("tokenizer.ggml.scores must be numbers")
    normal = types if len(types) == len(tokens) else [1] * len(tokens)
    return {token: scores[i] for i, token in enumerate(tokens) if normal[i] == 1}
