"""SentencePiece vocabularies, from GGUF scores or ``tokenizer.json``, give the tokens of ``tokenizers``."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, processors, trainers

from kwaainet.errors import InputError, ModelFileError, UnsupportedModel
from kwaainet.inference.sentencepiece import BYTE_TOKENS, KIND, SPACE, merges_of
from kwaainet.inference.tokenizer import Tokenizer
from kwaainet.inference.vocabulary import Vocabulary

CORPUS = "The quick brown fox jumps over the lazy dog, isn't it?  Wir grüßen die schöne Welt! aaaa aaaaaaa\n"


@pytest.fixture(scope="module")
def oracle() -> tokenizers.Tokenizer:
    """As ``transformers`` writes Llama 2's, with a small vocabulary that ``tokenizers`` trained."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*special, *BYTE_TOKENS], show_progress=False, max_token_length=8
    )
    made.train_from_iterator(CORPUS.split(" "), trainer)
    made.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A"], pair=["<s>", "$A", "$B"], special_tokens=[("<s>", 1)]
    )
    value = json.loads(made.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] in special]
    return tokenizers.Tokenizer.from_str(json.dumps(value))


@pytest.fixture(scope="module")
def metadata(oracle: tokenizers.Tokenizer) -> dict[str, Any]:
    """The same vocabulary as a GGUF file has it: a token made earlier has a higher score."""
    model = json.loads(oracle.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    rank = {"".join(pair): i for i, pair in reversed(list(enumerate(model["merges"])))}
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3, **dict.fromkeys(BYTE_TOKENS, 6)}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(rank.get(token, 10_000)) for token in tokens],
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in tokens],
        "tokenizer.ggml.bos_token_id": 1,
    }


words = st.sampled_from(
    [" the", "  ", "aaaaa", "grüß", "</s>", "<s", "😀", "日本", "\n", "<0x0A>", SPACE, "quick "]
)
texts = st.lists(words | st.text(st.characters(exclude_categories=("Cs",)), max_size=6)).map("".join)


@given(texts)
def test_tokens_and_texts_equal_the_oracles(oracle: tokenizers.Tokenizer, text: str) -> None:
    ours = Tokenizer.from_json(oracle.to_str())
    ids = ours.encode(text)
    assert ids == oracle.encode(text).ids
    assert ours.decode(ids, skip_special=True) == oracle.decode(ids)


def by_scores(text: str, metadata: dict[str, Any]) -> list[str]:
    """llama.cpp's way: of all neighbours that make a token, those of the best score, the leftmost first."""
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    score = {
        token: score
        for token, score, kind in zip(said["tokens"], said["scores"], said["token_type"], strict=True)
        if kind == 1
    }
    parts = list(SPACE + text.replace(" ", SPACE))
    while True:
        pairs = [(-score[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in score]
        if not pairs:
            return [
                p
                for part in parts
                for p in ([part] if part in score else [f"<0x{b:02X}>" for b in part.encode()])
            ]
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(st.text("aeghilnoqrtuw ß😀", min_size=1, max_size=30))
def test_scores_decide_as_in_llama_cpp(metadata: dict[str, Any], text: str) -> None:
    ours = Tokenizer.from_gguf_metadata(metadata)
    assert [ours.token(number) for number in ours.encode(text, prefix=False)] == by_scores(text, metadata)


def test_what_we_write_we_read_and_so_does_tokenizers(metadata: dict[str, Any]) -> None:
    for prefixed in True, False:
        vocabulary = Vocabulary.from_gguf(metadata | {"tokenizer.ggml.add_space_prefix": prefixed})
        assert (vocabulary.kind, vocabulary.prefix, vocabulary.space_prefix) == (KIND, (1,), prefixed)
        assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
        theirs = tokenizers.Tokenizer.from_str(vocabulary.to_json())
        ours = Tokenizer(vocabulary)
        for text in CORPUS, "größe 😀</s> and  <s>more", " x", "":
            assert ours.encode(text) == theirs.encode(text).ids
            assert ours.decode(ours.encode(text, prefix=False)) == theirs.decode(
                theirs.encode(text, add_special_tokens=False).ids, skip_special_tokens=False
            )


def test_streamed_text_keeps_its_spaces_and_whole_characters(metadata: dict[str, Any]) -> None:
    ours = Tokenizer.from_gguf_metadata(metadata)
    decoder = ours.decoder()
    ids = ours.encode("the 😀 dog", prefix=False)
    pieces = [decoder.feed(number) for number in ids] + [decoder.finish()]
    assert "".join(pieces) == " the 😀 dog"
    assert "\ufffd" not in "".join(pieces)


def test_characters_that_are_nothing_are_one_unknown() -> None:
    vocabulary = Vocabulary({"<unk>": 0, SPACE: 1, "a": 2}, [], KIND, space_prefix=True)
    assert Tokenizer(vocabulary).encode("ab😀ca") == [1, 2, 0, 2]
    with pytest.raises(InputError, match="lone surrogate"):
        Tokenizer(vocabulary).encode("\ud800")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, "scores must be a list of a number for each token"),
        ({"scores": [0.0]}, "scores must be a list of a number for each token"),
        ({"tokens": None}, "must be lists"),
        ({"token_type": 3}, "must be lists"),
    ],
)
def test_broken_vocabularies_are_refused(
    metadata: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        Vocabulary.from_gguf(metadata | {f"tokenizer.ggml.{key}": value for key, value in change.items()})


def test_numbers_that_are_none_and_tokens_too_long_are_refused(metadata: dict[str, Any]) -> None:
    scores = [float("nan"), *metadata["tokenizer.ggml.scores"][1:]]
    with pytest.raises(ModelFileError, match="must be numbers"):
        Vocabulary.from_gguf(metadata | {"tokenizer.ggml.scores": scores})
    with pytest.raises(ModelFileError, match="may have 128 characters"):
        merges_of({"a": 0}, {"a" * 129: 0.0})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalizer", None, "decoder Sequence"),
        ("normalizer", {"type": "Prepend", "prepend": SPACE}, "normalizer Prepend"),
        ("decoder", {"type": "Metaspace"}, "decoder Metaspace"),
        ("pre_tokenizer", {"type": "Metaspace"}, "pre-tokenizer Metaspace"),
    ],
)
def test_other_forms_are_named(oracle: tokenizers.Tokenizer, key: str, value: Any, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        Vocabulary.from_json(json.dumps(json.loads(oracle.to_str()) | {key: value}))
