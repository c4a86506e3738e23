"""The model commands from the command line: what they print, write and exit with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from unit.formats.mutations import samples

from kwaainet.native.cli.main import main
from kwaainet.native.model import open_model


def run(*words: str | Path) -> int:
    return main(["model", *map(str, words)])


def test_an_exported_model_opens_and_is_never_overwritten(
    tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny-hf"
    assert run("export", tiny_gguf, out) == 0
    assert open_model(out).config == open_model(tiny_gguf).config
    before = (out / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert run("export", tiny_gguf, out) != 0
    assert str(out) in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == before


def test_info_in_words_and_as_json(tiny_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", tiny_gguf) == 0
    said = capsys.readouterr().out
    assert "tiny-hf: llama in GGUF, 1 file(s)" in said
    assert "hidden_size = 64" in said
    assert run("info", "--json", tiny_gguf) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["format"], value["architecture"], len(value["block_bytes"])) == ("GGUF", "llama", 2)
    assert run("info", "--tensors", tiny_gguf) == 0
    assert "model.norm.weight: F32 [64], 256 bytes" in capsys.readouterr().out


def test_info_of_what_cannot_be_served(
    write_gguf: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"conv.weight": np.zeros((2, 3), np.float32)}
    assert run("info", write_gguf(tmp_path / "m.gguf", weights, architecture="whisper")) == 0
    said = capsys.readouterr().out
    assert "it cannot be served: the GGUF architecture is 'whisper'" in said
    assert "conv.weight: F32 [2, 3], 24 bytes" in said


def test_a_reader_that_has_had_enough_is_no_error(tiny_gguf: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    call = "import sys; from kwaainet.native.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", call, "model", "info", tiny_gguf]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_what_a_ggml_file_leaves_out_is_said_by_flags(tmp_path: Path) -> None:
    path, out = tmp_path / "old.bin", tmp_path / "new.gguf"
    path.write_bytes(samples()["ggml"].data)
    assert (
        run("convert", path, out, "--context-length", "512", "--rms-eps", "1e-6", "--rope-theta", "1e5") == 0
    )
    config = open_model(out).config
    assert (config.max_position_embeddings, config.rms_norm_eps, config.rope_theta) == (512, 1e-6, 1e5)


@pytest.mark.parametrize("out", ["half.gguf", "half"])
def test_convert_to_either_kind(tiny_gguf: Path, tmp_path: Path, out: str) -> None:
    assert run("convert", tiny_gguf, tmp_path / out, "--type", "F16") == 0
    model = open_model(tmp_path / out)
    assert model.manifest.tensors["model.layers.0.mlp.up_proj.weight"].dtype == "F16"
    assert model.config.tie_word_embeddings == open_model(tiny_gguf).config.tie_word_embeddings
    assert run("convert", tiny_gguf, tmp_path / out, "--type", "F16") == 2


def test_what_cannot_be_written_is_said_before_the_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hf"  # opening it would fail: there is nothing in it
    folder.mkdir()
    assert run("convert", folder, tmp_path / "out", "--type", "Q4_0") == 2
    assert "can be written as F32, F16, BF16, not Q4_0" in capsys.readouterr().err
    assert run("convert", folder, tmp_path / "out.gguf") == 2
    assert "has no tokenizer.json, which a GGUF file contains" in capsys.readouterr().err


def test_split_and_verify(tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("split", "--blocks", tiny_gguf, out) == 0
    assert run("verify", out) == 0
    assert "with the hash published" in capsys.readouterr().err
    block = out / "blocks-0001-0001.bin"
    block.write_bytes(block.read_bytes()[:-10])
    assert run("verify", out) == 1
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    assert line.startswith("model.layers.1.")
    assert "1 tensors are not as they should be" in said.err
    assert run("verify", tiny_gguf) == 0
    assert run("verify", out, "--manifest", tmp_path / "none") == 2
    assert run("split", tiny_gguf, tmp_path / "plain") == 0
    assert f"({tiny_gguf}), side by side" in capsys.readouterr().err


def test_an_interrupt_leaves_no_half_file(tiny_gguf: Path, tmp_path: Path) -> None:
    """The command is slow, so that it is in the middle of its file when the signal comes."""
    slow = "import signal, time, kwaainet.native.export as e; w = e.quantize\n"
    slow += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
    slow += "def slow(*a):\n    print('writing', flush=True); time.sleep(1); return w(*a)\n"  # some 20 times
    slow += "e.quantize = slow\nimport sys\nfrom kwaainet.native.cli.main import main\n"
    slow += "sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", slow, "model", "convert", str(tiny_gguf), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list((tmp_path / "out").iterdir()) == []
