"""The table of architectures says only what a config can hold, and refuses the rest by name."""

from dataclasses import fields

import pytest

from kwaainet.errors import UnsupportedModel
from kwaainet.formats.architectures import ARCHITECTURES, architecture
from kwaainet.formats.config import ModelConfig


def test_rows_differ_from_llama_in_fields_of_the_config() -> None:
    known = {field.name for field in fields(ModelConfig)}
    for name, row in ARCHITECTURES.items():
        assert row.class_name.lower().startswith(name.removesuffix("_text"))
        assert row.fixed.keys() <= known
    assert not ARCHITECTURES["llama"].fixed


@pytest.mark.parametrize("name", ["falcon", None, ["llama"], 7])
def test_others_are_refused_by_name(name: object) -> None:
    with pytest.raises(UnsupportedModel, match=r"model_type is .*; supported are llama, mistral, mixtral"):
        architecture(name, "model_type")
