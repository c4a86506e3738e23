"""What is published can be fetched by its manifest alone, whatever the files are cut into."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.formats.manifest import ModelManifest
from kwaainet.inference.text import TextSettings
from kwaainet.native.model import Model
from kwaainet.native.publish import MANIFEST, TEXT, publish
from kwaainet.native.verify import verify_published
from kwaainet.types import Progress


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (0, {"outer.bin", "blocks-0000-0000.bin", "blocks-0001-0001.bin"}),
        (1, {"outer.bin", "blocks-0000-0001.bin"}),
    ],
)
def test_parts_hold_every_tensor(tiny_model: Model, tmp_path: Path, parts: int, names: set[str]) -> None:
    out, seen = tmp_path / "out", list[Progress]()
    published = publish(tiny_model, out, seen.append, parts=parts)
    assert {path.name for path in out.iterdir()} == names | {MANIFEST, TEXT}
    manifest = ModelManifest.from_json((out / MANIFEST).read_bytes())
    assert manifest == published
    assert verify_published(manifest, out, seen.append) == {}
    before = tiny_model.manifest.tensors
    for name, entry in manifest.tensors.items():
        assert (entry.sha256, entry.dtype, entry.permuted) == (
            before[name].sha256,
            before[name].dtype,
            before[name].permuted,
        )
    for index in range(2):
        files = {entry.file for entry in manifest.block(index).values()}
        assert len(files) == 1
    assert TextSettings.from_json((out / TEXT).read_bytes()).chat_template == tiny_model.chat_template
    with pytest.raises(ConfigError, match=r"holds manifest\.json already"):
        publish(tiny_model, out, seen.append)


def test_a_manifest_beside_the_models_own_file(tiny_model: Model, tmp_path: Path) -> None:
    publish(tiny_model, tmp_path, lambda progress: None)
    manifest = ModelManifest.from_json((tmp_path / MANIFEST).read_bytes())
    assert manifest == tiny_model.manifest
    assert verify_published(manifest, tmp_path, lambda progress: None) == {}


def test_more_parts_than_blocks(tiny_model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 parts: the model has 2 blocks"):
        publish(tiny_model, tmp_path / "out", lambda progress: None, parts=3)
    assert list((tmp_path / "out").iterdir()) == []
