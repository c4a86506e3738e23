"""What is damaged is named, tensor by tensor, and the rest is read on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kwaainet.native.model import open_model
from kwaainet.native.verify import verify_model, verify_published
from kwaainet.types import Progress

Write = Callable[..., Path]
Weights = Mapping[str, np.ndarray]
Q, DOWN = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"


def test_bytes_are_held_against_the_manifest(
    tmp_path: Path, write_gguf: Write, tiny_weights: Weights
) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_weights)
    manifest = open_model(path).manifest
    seen: list[Progress] = []
    assert verify_published(manifest, tmp_path, seen.append) == {}
    assert seen[-1].done == seen[-1].total > 0
    with path.open("r+b") as file:
        for name in (Q, DOWN):
            file.seek(manifest.tensors[name].offset + 7)
            file.write(b"!")
    problems = verify_published(manifest, tmp_path, seen.append)
    assert problems.keys() == {Q, DOWN}
    assert f"the manifest says {manifest.tensors[Q].sha256}" in problems[Q]
    path.unlink()
    gone = verify_published(manifest, tmp_path, seen.append)
    assert gone.keys() == manifest.tensors.keys()
    assert "No such file" in gone[Q]


def test_numbers_are_checked_without_a_manifest(
    tmp_path: Path, write_directory: Write, tiny_weights: Weights
) -> None:
    broken = dict(tiny_weights) | {Q: np.where(tiny_weights[Q] > 0.01, np.inf, tiny_weights[Q])}
    problems = verify_model(write_directory(tmp_path / "m", broken), lambda progress: None)
    count = int((~np.isfinite(broken[Q])).sum())
    assert problems == {Q: f"has {count} numbers that are infinite or none"}
