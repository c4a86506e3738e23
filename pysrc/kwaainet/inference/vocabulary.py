"""A vocabulary of byte-level or SentencePiece BPE, from GGUF or ``tokenizer.json``, and back to the latter.

Follows Hugging Face ``tokenizers``' file format and llama.cpp's ``llama-vocab.cpp``. Rule of the
file: what would change the tokens of a text is either understood or refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ..errors import ModelFileError, UnsupportedModel
from ..formats.json_text import parse_object
from . import sentencepiece
from .pretokenizer import KINDS

MAX_JSON_BYTES = 128 << 20  # Llama 3's has 17 MB
MAX_TOKENS = 1 << 20
MAX_TOKEN_CHARACTERS = 1024

_LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2_PATTERN = _LLAMA_3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PLAIN_BYTE_LEVEL = {**_BYTE_LEVEL, "use_regex": False}
_DIGITS = {"type": "Digits", "individual_digits": True}
_SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
_NFC = {"type": "NFC"}
_STEPS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [_DIGITS, _BYTE_LEVEL],
    "llama-3": [{**_SPLIT, "pattern": {"Regex": _LLAMA_3_PATTERN}}, _PLAIN_BYTE_LEVEL],
    "qwen2": [{**_SPLIT, "pattern": {"Regex": _QWEN_2_PATTERN}}, _PLAIN_BYTE_LEVEL],
}
_GGUF_KINDS = {"llama-bpe": "llama-3", "llama3": "llama-3", "llama-v3": "llama-3"}  # llama.cpp's names
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # llama.cpp's token types


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``ids``: tokens spelt in byte-level's alphabet; ``merges``: pairs, the most frequent first.

    ``added`` tokens are found in a text as they are written, before anything else, and ``special``
    names those of them that control the model. ``prefix`` ids begin every text. ``ignore_merges``:
    a word that is a token needs no merges. ``nfc``: a text is composed first (Unicode's form C).
    ``kind`` may be ``sentencepiece.KIND``: then tokens are spelt as that file says, and
    ``space_prefix`` says that a text gets a space before it. Raises ``ModelFileError`` if it
    contradicts itself.
    """

    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    kind: str
    added: Mapping[str, int] = field(default_factory=dict)
    special: frozenset[str] = frozenset()
    prefix: tuple[int, ...] = ()
    ignore_merges: bool = False
    nfc: bool = False
    space_prefix: bool = False

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, sentencepiece.KIND):
            raise UnsupportedModel(f"pre-tokenizer {self.kind!r:.60}; supported are {', '.join(KINDS)}")
        for token, number in (*self.ids.items(), *self.added.items()):
            if not 0 <= number < MAX_TOKENS or len(token) > MAX_TOKEN_CHARACTERS:
                raise ModelFileError(f"token {token!r:.40} of {len(token)} characters has the id {number}")
        for left, right in self.merges:
            if not (left in self.ids and right in self.ids and left + right in self.ids):
                raise ModelFileError(f"the merge of {left!r:.40} and {right!r:.40} is not of known tokens")
        if "" in self.added:
            raise ModelFileError("an added token is empty")

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Vocabulary:
        """From ``tokenizer.ggml.*``; ``UnsupportedModel`` names another kind of tokenizer."""
        get = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}.get
        if get("model") == "llama":
            return _sentencepiece(get)
        if get("model") != "gpt2":
            raise UnsupportedModel(
                f"tokenizer.ggml.model is {get('model')!r:.40}; only 'gpt2' and 'llama' are supported"
            )
        tokens, merges = get("tokens"), get("merges")
        if not _are_strings(tokens) or not _are_strings(merges):
            raise ModelFileError("tokenizer.ggml.tokens and .merges must be lists of strings")
        types = get("token_type", [])
        types = types if isinstance(types, list) else []
        pre = get("pre")
        kind = _GGUF_KINDS.get(pre, pre) if isinstance(pre, str) else str(pre)
        begin = get("bos_token_id")
        adds_begin = get("add_bos_token", kind == "llama-3") is True
        return cls(
            ids=_unique(tokens),
            merges=[_pair(merge) for merge in merges],
            kind=kind,
            added=_of_types(tokens, types, _CONTROL, _USER_DEFINED),
            special=frozenset(_of_types(tokens, types, _CONTROL)),
            prefix=(begin,) if adds_begin and isinstance(begin, int) else (),
            ignore_merges=kind == "llama-3",
            nfc=kind == "qwen2",
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Vocabulary:
        """From ``tokenizer.json``; ``UnsupportedModel`` names a step not known here."""
        if len(text) > MAX_JSON_BYTES:
            raise ModelFileError(f"tokenizer.json has {len(text)} bytes; {MAX_JSON_BYTES} are allowed")
        value = parse_object(text, "tokenizer.json")
        normalizer, model = value.get("normalizer"), value.get("model")
        pieces = isinstance(model, dict) and model.get("byte_fallback") is True
        forms = [form for form, known in sentencepiece.NORMALIZERS.items() if normalizer == known and pieces]
        if not forms and normalizer not in (None, _NFC):
            raise UnsupportedModel(f"tokenizer.json: normalizer {_type(normalizer)} is not supported")
        decoder = value.get("decoder")
        if sentencepiece.DECODERS[forms[0]] != decoder if forms else _type(decoder) != "ByteLevel":
            raise UnsupportedModel(f"tokenizer.json: decoder {_type(decoder)} is not supported")
        model = _plain_bpe(model, pieces=bool(forms))
        added = [_added_token(item) for item in _list(value, "added_tokens")]
        return cls(
            ids=model["vocab"],
            merges=[_pair(merge) for merge in _list(model, "merges")],
            kind=_kind(value.get("pre_tokenizer"), pieces=bool(forms)),
            added={token: number for token, number, _ in added},
            special=frozenset(token for token, _, special in added if special),
            prefix=_prefix(value.get("post_processor")),
            ignore_merges=model.get("ignore_merges") is True,
            nfc=normalizer == _NFC,
            space_prefix=forms == [True],
        )

    def to_json(self) -> str:
        """A ``tokenizer.json`` that ``tokenizers`` loads from version 0.14 on."""
        steps, pieces = _STEPS.get(self.kind, []), self.kind == sentencepiece.KIND
        added = [
            {"id": number, "content": token, "special": token in self.special}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for token, number in sorted(self.added.items(), key=lambda item: item[1])
        ]
        model: dict[str, Any] = {
            "type": "BPE",
            "dropout": None,
            "unk_token": sentencepiece.UNKNOWN if pieces and sentencepiece.UNKNOWN in self.ids else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": pieces,
            "byte_fallback": pieces,
            "vocab": dict(self.ids),
            # the old spelling: all versions read it
            "merges": [f"{left} {right}" for left, right in self.merges],
        }
        if self.ignore_merges:
            model["ignore_merges"] = True
        value = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": sentencepiece.NORMALIZERS[self.space_prefix]
            if pieces
            else _NFC
            if self.nfc
            else None,
            "pre_tokenizer": _pre_tokenizer(steps),
            "post_processor": self._post_processor(),
            "decoder": sentencepiece.DECODERS[self.space_prefix] if pieces else _BYTE_LEVEL,
            "model": model,
        }
        return json.dumps(value, ensure_ascii=False, indent=1)

    def _post_processor(self) -> dict[str, Any] | None:
        if not self.prefix:
            return None if self.kind == sentencepiece.KIND else _BYTE_LEVEL
        names = {number: token for token, number in (*self.ids.items(), *self.added.items())}
        begin = [{"SpecialToken": {"id": names[number], "type_id": 0}} for number in self.prefix]
        first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
        return {
            "type": "TemplateProcessing",
            "single": [*begin, first],
            "pair": [*begin, first, second],
            "special_tokens": {
                names[number]: {"id": names[number], "ids": [number], "tokens": [names[number]]}
                for number in self.prefix
            },
        }


def _sentencepiece(get: Callable[..., Any]) -> Vocabulary:
    """From the ``tokenizer.ggml.*`` of a Llama 2, Mistral or Gemma."""
    tokens, types, begin = get("tokens"), get("token_type", []), get("bos_token_id")
    if not _are_strings(tokens) or not isinstance(types, list):
        raise ModelFileError("tokenizer.ggml.tokens and .token_type must be lists")
    ids = _unique(tokens)
    return Vocabulary(
        ids=ids,
        merges=sentencepiece.merges_of(ids, sentencepiece.gguf_scores(tokens, types, get("scores"))),
        kind=sentencepiece.KIND,
        added=_of_types(tokens, types, _UNKNOWN, _CONTROL, _USER_DEFINED),
        special=frozenset(_of_types(tokens, types, _UNKNOWN, _CONTROL)),
        prefix=(begin,) if get("add_bos_token", True) is True and isinstance(begin, int) else (),
        space_prefix=get("add_space_prefix", True) is True,
    )


def _of_types(tokens: list[str], types: list[Any], *wanted: int) -> dict[str, int]:
    return {token: i for i, (token, type_) in enumerate(zip(tokens, types, strict=False)) if type_ in wanted}


def _pre_tokenizer(steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", "pretokenizers": steps}


def _are_strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _unique(tokens: list[str]) -> dict[str, int]:
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ModelFileError("tokenizer.ggml.tokens has a token twice")
    return ids


def _pair(merge: Any) -> tuple[str, str]:
    """Both spellings: ``"a b"`` and, since tokenizers 0.20, ``["a", "b"]``."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not _are_strings(parts) or len(parts) != 2:
        raise ModelFileError(f"{merge!r:.60} is not a merge of two tokens")
    return parts[0], parts[1]


def _type(step: Any) -> str:
    return str(step.get("type"))[:60] if isinstance(step, dict) else str(step)[:60]


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    items = value.get(key)
    if not isinstance(items, list) or len(items) > MAX_TOKENS:
        raise ModelFileError(f"tokenizer.json: {key} must be a list of at most {MAX_TOKENS}")
    return items


def _plain_bpe(model: Any, *, pieces: bool) -> dict[str, Any]:
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise UnsupportedModel(f"tokenizer.json: model {_type(model)} is not supported, only byte-level BPE")
    refused = ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]
    for key in refused if pieces else (*refused, "unk_token", "byte_fallback"):
        if model.get(key):
            raise UnsupportedModel(f"tokenizer.json: {key} {model[key]!r:.40} is not supported")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(number) is int for number in vocab.values()):
        raise ModelFileError("tokenizer.json: vocab must be an object of token ids")
    return model


def _added_token(item: Any) -> tuple[str, int, bool]:
    if (
        not isinstance(item, dict)
        or not isinstance(item.get("content"), str)
        or type(item.get("id")) is not int
    ):
        raise ModelFileError(f"tokenizer.json: {item!r:.80} is not an added token")
    for flag in ("single_word", "lstrip", "rstrip"):
        if item.get(flag):
            raise UnsupportedModel(
                f"tokenizer.json: {flag} of token {item['content']!r:.40} is not supported"
            )
    return item["content"], item["id"], item.get("special") is True


def _kind(pre_tokenizer: Any, *, pieces: bool) -> str:
    if pieces and pre_tokenizer is None:
        return sentencepiece.KIND
    steps = [pre_tokenizer]
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        steps = _list(pre_tokenizer, "pretokenizers")
    told = [
        {"use_regex": True, **step, "trim_offsets": True} if _type(step) == "ByteLevel" else step
        for step in steps
    ]
    for kind, known in _STEPS.items():
        if told == known:
            return kind
    names = " + ".join(_type(step) for step in steps)
    raise UnsupportedModel(f"tokenizer.json: pre-tokenizer {names:.80} with these settings is not supported")


def _prefix(processor: Any) -> tuple[int, ...]:
    """The ids a post-processor puts before a text."""
    if processor is None or _type(processor) == "ByteLevel":
        return ()
    if _type(processor) == "Sequence":
        parts = [_prefix(part) for part in _list(processor, "processors")]
        return tuple(number for part in parts for number in part)
    try:
        if processor["type"] != "TemplateProcessing" or "Sequence" not in processor["single"][-1]:
            raise UnsupportedModel(
                f"tokenizer.json: post-processor {_type(processor)} of this form is not supported"
            )
        names = [item["SpecialToken"]["id"] for item in processor["single"][:-1]]
        return tuple(int(number) for name in names for number in processor["special_tokens"][name]["ids"])
    except (KeyError, IndexError, TypeError, ValueError):
        raise ModelFileError("tokenizer.json: the post-processor's template is malformed") from None
