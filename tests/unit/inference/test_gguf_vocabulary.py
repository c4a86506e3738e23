"""A vocabulary written as GGUF's metadata is the one that was there, or is refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kwaainet.errors import UnsupportedModel
from kwaainet.inference import sentencepiece
from kwaainet.inference.gguf_vocabulary import tokenizer_metadata
from kwaainet.inference.vocabulary import Vocabulary

BYTES = Vocabulary(
    ids={"a": 0, "b": 1, "ab": 2, "<s>": 3},
    merges=[("a", "b")],
    kind="llama-3",
    added={"<s>": 3, "<user>": 5},
    special=frozenset(["<s>"]),
    prefix=(3,),
    ignore_merges=True,
)
IDS = {"<unk>": 0, "<s>": 1, "a": 2, "b": 3, "c": 4, "ab": 5, "abc": 6, "bc": 7}
SCORES = {"ab": -1.0, "bc": -2.0, "abc": -3.0, "a": -9.0, "b": -9.0, "c": -9.0}
PIECES = Vocabulary(
    ids=IDS,
    merges=sentencepiece.merges_of(IDS, SCORES),
    kind=sentencepiece.KIND,
    added={"<unk>": 0, "<s>": 1},
    special=frozenset(["<unk>", "<s>"]),
    prefix=(1,),
)


def test_byte_level_comes_back() -> None:
    metadata = tokenizer_metadata(BYTES, 7, 3)
    assert metadata["tokenizer.ggml.token_type"] == [1, 1, 1, 3, 5, 4, 5]
    again = Vocabulary.from_gguf({**metadata, "tokenizer.ggml.bos_token_id": 3})
    assert again == replace(BYTES, ids={**BYTES.ids, "[PAD4]": 4, "<user>": 5, "[PAD6]": 6})


@pytest.mark.parametrize("space_prefix", [True, False])
def test_sentencepiece_comes_back_from_scores(space_prefix: bool) -> None:
    vocabulary = replace(PIECES, space_prefix=space_prefix)
    metadata = tokenizer_metadata(vocabulary, len(IDS), 1)
    assert metadata["tokenizer.ggml.scores"] == [-3.0, -3.0, -3.0, -3.0, -3.0, 0.0, -2.0, -1.0]
    again = Vocabulary.from_gguf({**metadata, "tokenizer.ggml.bos_token_id": 1})
    assert again == vocabulary
    bare = tokenizer_metadata(replace(vocabulary, prefix=()), len(IDS), 1)
    assert Vocabulary.from_gguf({**bare, "tokenizer.ggml.bos_token_id": 1}).prefix == ()


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (replace(BYTES, prefix=(0, 3)), r"begin with the tokens \[0, 3\], which GGUF cannot say"),
        (replace(BYTES, prefix=(0,)), "the model's first token is 3"),
        (replace(BYTES, ids={**BYTES.ids, "far": 70}), "token 'far' has the id 70; the model has 8 tokens"),
        (replace(PIECES, prefix=(), merges=PIECES.merges[1:]), "not those that SentencePiece makes"),
    ],
)
def test_what_a_file_cannot_say_is_refused(vocabulary: Vocabulary, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        tokenizer_metadata(vocabulary, 8, 3)
