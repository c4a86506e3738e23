"""A manifest from a stranger is either sound or refused; a fetch plan covers what was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import InputError, IntegrityError, KwaaiNetError, ModelFileError
from kwaainet.formats.config import ModelConfig
from kwaainet.formats.manifest import (
    MAX_JSON_BYTES,
    Assembly,
    ModelManifest,
    TensorEntry,
    check_file_name,
    fetch_plan,
    verify,
)
from kwaainet.types import BlockRange


@pytest.fixture(scope="session")
def manifest(tiny_config: ModelConfig) -> ModelManifest:
    offset, tensors = 100, {}
    for name, shape in tiny_config.tensor_shapes().items():
        length = 4
        for size in shape:
            length *= size
        tensors[name] = TensorEntry("model.gguf", offset, length, "ab" * 32, "F32", shape, "q_proj" in name)
        offset += length
    return ModelManifest("tiny-llama-hf", tiny_config, tensors)


def test_json_round_trip(manifest: ModelManifest) -> None:
    assert ModelManifest.from_json(manifest.to_json()) == manifest
    assert ModelManifest.from_json(manifest.to_json().encode()) == manifest


def test_a_block_has_its_tensors_by_suffix(manifest: ModelManifest) -> None:
    block = manifest.block(1)
    assert block["self_attn.q_proj.weight"] is manifest.tensors["model.layers.1.self_attn.q_proj.weight"]
    assert len(block) == 9
    assert list(manifest.span(BlockRange(0, 2)))[9] == "model.layers.1.input_layernorm.weight"
    with pytest.raises(InputError, match="block 2 is not one of tiny-llama-hf's 2"):
        manifest.block(2)


Q = "model.layers.0.self_attn.q_proj.weight"


def _set(key: str, item: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        value["tensors"][Q][key] = item

    return change


def _drop(value: dict[str, Any]) -> None:
    del value["tensors"][Q]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(version=2), "version 1"),
        (lambda value: value.update(name="tiny.llama"), "'tiny.llama' cannot name a model"),
        (lambda value: value.update(name=5), "name must be a string"),
        (lambda value: value.update(config=None), "expected a JSON object"),
        (lambda value: value.update(tensors=[]), "tensors an object"),
        (
            lambda value: value["tensors"].update(extra=value["tensors"][Q]),
            "1 unknown tensors, among them extra",
        ),
        (_drop, f"lacks 1 tensors, among them {Q}"),
        (_set("file", "../secret"), "cannot be a model's file"),
        (_set("offset", -1), "offset is -1"),
        (_set("offset", 1.5), "offset is 1.5, which is not of type int"),
        (_set("offset", True), "offset is True, which is not of type int"),
        (_set("length", 1 << 60), f"length is {1 << 60}"),
        (_set("sha256", "AB" * 32), "is not 64 lower-case hex digits"),
        (_set("dtype", "IQ2_XS"), "IQ2_XS is unknown"),
        (_set("shape", [64, -64]), "shape is"),
        (_set("shape", ["64", 64]), "not a list of integers"),
        (_set("permuted", 1), "permuted is 1"),
        (_set("more", 1), "nothing else"),
        (_set("strides", {}), "strides is {}, which is not a list of integers"),
        (_set("strides", [1]), r"strides \[1\] do not fit \[64, 64\]"),
        (_set("strides", [1, -64]), r"strides \[1, -64\] do not fit"),
        (_set("strides", [1, 64]), "strides .* do not fit"),  # GGUF's order and strides at once
        (_set("strides", [1, 1 << 40]), "do not fit"),
    ],
)
def test_unsound_manifests_are_refused(
    manifest: ModelManifest, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    value = json.loads(manifest.to_json())
    change(value)
    with pytest.raises(ModelFileError, match=message):
        ModelManifest.from_json(json.dumps(value))


K = "model.layers.0.self_attn.k_proj.weight"


def test_a_view_keeps_its_strides_and_is_bounded(manifest: ModelManifest) -> None:
    turned = replace(manifest.tensors[K], strides=(1, 32))
    again = replace(manifest, tensors={**manifest.tensors, K: turned})
    assert ModelManifest.from_json(again.to_json()) == again
    assert '"strides"' not in manifest.to_json()  # those who know of none still read it
    for changes, message in (
        ({"strides": (1, 64)}, r"its length is 8192"),
        ({"dtype": "Q8_0", "strides": (64, 1)}, "come in blocks and have no strides"),
        ({"strides": (1, 1024), "length": 4 * (31 + 63 * 1024 + 1)}, "are spread over 258176; 16 times"),
    ):
        broken = replace(turned, **changes)
        with pytest.raises(ModelFileError, match=message):
            replace(manifest, tensors={**manifest.tensors, K: broken})


def test_bombs_are_refused() -> None:
    for text in (
        b"[" * 100_000,
        b'{"version":' + b"9" * 10_000 + b"}",
        b"\xff",
        b"",
        b"null",
        b" " * (MAX_JSON_BYTES + 1),
    ):
        with pytest.raises(ModelFileError):
            ModelManifest.from_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["version", "name", "config", "tensors", "x"]), inner)
        ),
    )
)
def test_any_json_is_refused_cleanly(value: Any) -> None:
    with pytest.raises(KwaaiNetError):
        ModelManifest.from_json(json.dumps(value))


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "..\\b", "a%2fb", "a?b", "a#b", "c:d", "a\nb", "a" * 201]
)
def test_file_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ModelFileError):
        check_file_name(name)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "Smol LM (2).Q4_1.gguf", "größe.gguf"])
def test_plain_file_names_are_kept(name: str) -> None:
    assert check_file_name(name) == name


# --- fetching -----------------------------------------------------------------------------------

places = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 300), st.integers(1, 120)), min_size=1, max_size=12
)


@given(places, st.integers(1, 100), st.integers(0, 50))
def test_a_plan_fetches_every_byte_within_its_limits(
    where: list[tuple[str, int, int]], max_read: int, max_gap: int
) -> None:
    files = {name: bytes((i * 7 + ord(name)) % 256 for i in range(500)) for name in "ab"}
    tensors = {
        str(i): TensorEntry(
            file, offset, length, sha256(files[file][offset : offset + length]).hexdigest(), "F32", ()
        )
        for i, (file, offset, length) in enumerate(where)
    }
    plan = fetch_plan(tensors, max_read=max_read, max_gap=max_gap)
    assert all(0 < read.length <= max_read for read in plan)
    assembly, got = Assembly(tensors), {}
    for read in plan:
        got.update(assembly.receive(read, files[read.file][read.offset : read.offset + read.length]))
    assert got == {
        name: files[entry.file][entry.offset : entry.offset + entry.length] for name, entry in tensors.items()
    }
    assert not list(assembly.missing())


def test_neighbours_share_a_read_and_distant_ones_do_not(manifest: ModelManifest) -> None:
    span = manifest.span(BlockRange(0, 2))
    assert len(fetch_plan(span)) == 1
    assert len(fetch_plan(span, max_read=40_000)) < len(span)
    first, last = manifest.tensors["model.embed_tokens.weight"], manifest.tensors["lm_head.weight"]
    assert len(fetch_plan({"a": first, "b": last}, max_gap=1000)) == 2


def test_bytes_with_another_hash_are_refused() -> None:
    entry = TensorEntry("f", 0, 4, sha256(b"good").hexdigest(), "F32", (1,))
    assert verify("x", entry, b"good") == b"good"
    (read,) = fetch_plan({"x": entry})
    with pytest.raises(IntegrityError, match="tensor x"):
        list(Assembly({"x": entry}).receive(read, b"evil"))
    with pytest.raises(IntegrityError, match="got 3 bytes instead of 4"):
        list(Assembly({"x": entry}).receive(read, b"goo"))


def test_a_manifest_needs_hashes(manifest: ModelManifest) -> None:
    tensors = {**manifest.tensors, Q: replace(manifest.tensors[Q], sha256="")}
    with pytest.raises(ModelFileError, match="64 lower-case hex"):
        ModelManifest(manifest.name, manifest.config, tensors)
