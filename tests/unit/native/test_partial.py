"""Files appear together at the end, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.partial import WrittenFiles


def write(folder: Path, failure: type[BaseException] | None = None, **contents: bytes) -> None:
    with WrittenFiles(folder) as files:
        for name, data in contents.items():
            files.write(name, data)
        if failure is not None:
            raise failure


def test_files_have_their_names_only_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    with WrittenFiles(folder) as files:
        files.write("a", b"1")
        with files.open("b") as file:
            file.write(b"2")
        assert sorted(path.name for path in folder.iterdir()) == ["a.part", "b.part"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"1", "b": b"2"}
    with pytest.raises(ConfigError, match="holds b already"):
        write(folder, c=b"3", b=b"4")
    assert (folder / "b").read_bytes() == b"2"
    assert not (folder / "c").exists()


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure):
        write(tmp_path, failure, a=b"1")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"), WrittenFiles(tmp_path / "file" / "x"):
        pass
    with pytest.raises(ConfigError, match=r"cannot write .*: disk full"), WrittenFiles(tmp_path):
        raise OSError(28, "disk full")
