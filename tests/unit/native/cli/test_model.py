from pathlib import Path

import pytest

from kwaainet.native.cli.main import main
from kwaainet.native.model import open_model


def test_an_exported_model_opens_and_is_never_overwritten(
    tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny-hf"
    assert main(["model", "export", str(tiny_gguf), str(out)]) == 0
    assert open_model(out).config == open_model(tiny_gguf).config
    before = (out / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["model", "export", str(tiny_gguf), str(out)]) != 0
    assert str(out) in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == before
