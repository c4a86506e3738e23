"""Vocabularies from GGUF metadata and ``tokenizer.json``; what is not understood is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, ModelFileError, UnsupportedModel
from kwaainet.inference.pretokenizer import KINDS
from kwaainet.inference.vocabulary import Vocabulary


def test_gguf_and_json_agree(tiny_metadata: dict[str, Any], tiny_tokenizer_json: dict[str, Any]) -> None:
    from_gguf = Vocabulary.from_gguf(tiny_metadata | {"tokenizer.ggml.pre": "gpt-2"})
    assert from_gguf == Vocabulary.from_json(json.dumps(tiny_tokenizer_json))
    assert from_gguf.special == {"<|start|>", "<|end|>"}
    assert from_gguf.added == {"<|start|>": 0, "<|end|>": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", [(), (0,)])
def test_what_we_write_we_read_and_so_does_tokenizers(
    tiny_metadata: dict[str, Any], kind: str, prefix: tuple[int, ...]
) -> None:
    base = Vocabulary.from_gguf(tiny_metadata)
    vocabulary = replace(base, kind=kind, prefix=prefix, ignore_merges=kind == "llama-3", nfc=kind == "qwen2")
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    theirs = tokenizers.Tokenizer.from_str(vocabulary.to_json())
    assert tuple(theirs.encode("").ids) == prefix
    assert theirs.get_vocab() == dict(vocabulary.ids)


def test_both_spellings_of_merges(tiny_tokenizer_json: dict[str, Any]) -> None:
    model = tiny_tokenizer_json["model"]
    old = {**tiny_tokenizer_json, "model": {**model, "merges": [" ".join(pair) for pair in model["merges"]]}}
    assert Vocabulary.from_json(json.dumps(old)) == Vocabulary.from_json(json.dumps(tiny_tokenizer_json))


@pytest.mark.parametrize(
    ("metadata", "prefix"),
    [
        ({"pre": "smollm"}, ()),
        ({"pre": "smollm", "add_bos_token": True}, (0,)),
        ({"pre": "llama-bpe"}, (0,)),
        ({"pre": "llama-bpe", "add_bos_token": False}, ()),
    ],
)
def test_what_begins_a_text(
    tiny_metadata: dict[str, Any], metadata: dict[str, Any], prefix: tuple[int, ...]
) -> None:
    change = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    assert Vocabulary.from_gguf(tiny_metadata | change).prefix == prefix


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "bert"}, UnsupportedModel, "model is 'bert'; only 'gpt2' and 'llama'"),
        ({"model": "llama"}, ModelFileError, "scores must be a list"),
        ({"model": None}, UnsupportedModel, "model is None"),
        ({"pre": "tekken"}, UnsupportedModel, "pre-tokenizer 'tekken'; supported are gpt-2, smollm, llama-3"),
        ({"pre": None}, UnsupportedModel, "pre-tokenizer 'None'"),
        ({"tokens": None}, ModelFileError, "must be lists of strings"),
        ({"tokens": ["a", "a"]}, ModelFileError, "a token twice"),
        ({"merges": ["a b c"]}, ModelFileError, "'a b c' is not a merge"),
        ({"merges": ["z z"]}, ModelFileError, "not of known tokens"),
    ],
)
def test_gguf_tokenizers_not_understood(
    tiny_metadata: dict[str, Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Vocabulary.from_gguf(
            tiny_metadata | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
        )


def _model(**change: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda value: {**value, "model": {**value["model"], **change}}


def _top(**change: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda value: {**value, **change}


def _token(**change: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda value: {**value, "added_tokens": [{**value["added_tokens"][0], **change}]}


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|end|>"}}],
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_model(type="Unigram"), UnsupportedModel, "model Unigram"),
        (_model(byte_fallback=True), UnsupportedModel, "byte_fallback True"),
        (_model(unk_token="<unk>"), UnsupportedModel, "unk_token '<unk>'"),
        (_model(vocab=[]), ModelFileError, "vocab must be an object"),
        (_model(vocab={"a": "1"}), ModelFileError, "vocab must be an object"),
        (_model(vocab={"a": -1}, merges=[]), ModelFileError, "has the id -1"),
        (_model(merges=None), ModelFileError, "merges must be a list"),
        (_model(merges=[["h"]]), ModelFileError, "not a merge of two tokens"),
        (_top(normalizer={"type": "NFKC"}), UnsupportedModel, "normalizer NFKC"),
        (_top(decoder=None), UnsupportedModel, "decoder None"),
        (_top(pre_tokenizer={"type": "Metaspace"}), UnsupportedModel, "pre-tokenizer Metaspace"),
        (_top(pre_tokenizer=None), UnsupportedModel, "pre-tokenizer None"),
        (
            _top(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}),
            UnsupportedModel,
            "ByteLevel with these",
        ),
        (_top(post_processor=TEMPLATE), UnsupportedModel, "post-processor TemplateProcessing"),
        (_top(post_processor={"type": "TemplateProcessing"}), ModelFileError, "malformed"),
        (_token(lstrip=True), UnsupportedModel, "lstrip of token"),
        (_token(content=""), ModelFileError, "added token is empty"),
        (_token(id="0"), ModelFileError, "is not an added token"),
    ],
)
def test_json_tokenizers_not_understood(
    tiny_tokenizer_json: dict[str, Any],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        Vocabulary.from_json(json.dumps(change(tiny_tokenizer_json)))


@given(st.data())
def test_any_json_in_any_place_raises_only_our_errors(
    tiny_tokenizer_json: dict[str, Any], data: st.DataObject
) -> None:
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "single", "id"]), inner)
        ),
    )
    value = json.loads(json.dumps(tiny_tokenizer_json))
    place = data.draw(st.sampled_from([value, value["model"], value["added_tokens"][0]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(junk)
    try:
        Vocabulary.from_json(json.dumps(value))
    except KwaaiNetError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_bombs_are_refused() -> None:
    for text in ("[" * 100_000, "", "null", '{"model": 1' + "0" * 5000 + "}"):
        with pytest.raises(ModelFileError):
            Vocabulary.from_json(text)
