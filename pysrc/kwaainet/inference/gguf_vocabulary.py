"""A vocabulary as the ``tokenizer.ggml.*`` metadata of a GGUF file, which ``vocabulary`` reads.

Follows llama.cpp's ``convert_hf_to_gguf.py`` and ``llama-vocab.cpp``. Rule of the file: what llama.cpp would
make other tokens of is refused by its name.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UnsupportedModel
from ..formats.gguf_writer import Value
from . import sentencepiece
from .sentencepiece import BYTE_TOKENS, UNKNOWN, gguf_scores, merges_of
from .vocabulary import Vocabulary

_PRE = {"gpt-2": "gpt-2", "smollm": "smollm", "llama-3": "llama-bpe", "qwen2": "qwen2"}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types


def tokenizer_metadata(vocabulary: Vocabulary, size: int, begin: int | None) -> dict[str, Value]:
    """The keys of ``vocabulary`` in a model of ``size`` tokens that begins texts with ``begin``.

    Raises ``UnsupportedModel`` for what such a file cannot say.
    """
    pieces = vocabulary.kind == sentencepiece.KIND
    if not pieces and vocabulary.kind not in _PRE:
        raise UnsupportedModel(f"a tokenizer of the kind {vocabulary.kind} cannot be written to GGUF")
    if vocabulary.prefix not in ((), (begin,)):
        raise UnsupportedModel(
            f"texts begin with the tokens {list(vocabulary.prefix)}, which GGUF cannot say; the model's "
            f"first token is {begin}"
        )
    tokens, types = _tokens(vocabulary, size)
    known: dict[str, Value] = {
        "model": "llama" if pieces else "gpt2",
        "pre": "default" if pieces else _PRE[vocabulary.kind],
        "tokens": tokens,
        "token_type": types,
        "add_bos_token": bool(vocabulary.prefix),
    }
    if pieces:
        known["scores"] = _scores(vocabulary, tokens, types)
        known["add_space_prefix"] = vocabulary.space_prefix
    else:
        known["merges"] = [f"{left} {right}" for left, right in vocabulary.merges]
    return {f"tokenizer.ggml.{key}": value for key, value in known.items()}


def _tokens(vocabulary: Vocabulary, size: int) -> tuple[list[str], list[int]]:
    """The text and llama.cpp's type of each token."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [_UNUSED] * size
    for token, number in (*vocabulary.ids.items(), *vocabulary.added.items()):
        if number >= size:
            raise UnsupportedModel(f"token {token!r:.40} has the id {number}; the model has {size} tokens")
        tokens[number], types[number] = token, _NORMAL
    for token, number in vocabulary.added.items():
        types[number] = _CONTROL if token in vocabulary.special else _USER_DEFINED
    if vocabulary.kind == sentencepiece.KIND:
        everything = {**vocabulary.ids, **vocabulary.added}
        for token in (UNKNOWN, *BYTE_TOKENS):
            if token in everything:
                types[everything[token]] = _UNKNOWN if token == UNKNOWN else _BYTE
    return tokens, types


def _scores(vocabulary: Vocabulary, tokens: Sequence[str], types: Sequence[int]) -> list[float]:
    """A token that merges make earlier has the better score; the file's reader makes the merges of them."""
    ranks: dict[str, int] = {}
    for left, right in vocabulary.merges:
        ranks.setdefault(left + right, len(ranks))
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    again = merges_of(vocabulary.ids, gguf_scores(tokens, types, scores))
    plain = (pair for pair in vocabulary.merges if pair[0] + pair[1] not in vocabulary.added)
    if set(again) != set(plain):
        raise UnsupportedModel("the vocabulary's merges are not those that SentencePiece makes of scores")
    return scores
