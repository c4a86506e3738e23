"""Debian's nginx and Pebble (Let's Encrypt's ACME test server), unpacked, not installed: for the tests only.

apt checks what it downloads by Debian's signatures. Where there is no apt, those on the PATH are used.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from places import DEBIAN
from steps import SetupError, call

SOURCE = Path(__file__)
NGINX = DEBIAN / "usr" / "sbin" / "nginx"
PEBBLE = DEBIAN / "usr" / "bin" / "pebble"
RESOLVER = DEBIAN / "usr" / "bin" / "pebble-challtestsrv"  # tells Pebble that every name is this machine's


def unpack_servers() -> None:
    """Both packages into .cache/debian."""
    shutil.rmtree(DEBIAN, ignore_errors=True)
    part = DEBIAN.with_name("debian.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if shutil.which("apt-get") is None:
        for path in (NGINX, PEBBLE, RESOLVER):
            found = shutil.which(path.name)
            if found is None:
                raise SetupError(f"there is neither apt-get nor {path.name} here; install {path.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(found)
        return
    download = ("apt-get", "-qq", "download", "nginx", "pebble")
    try:
        call(*download, folder=part, quiet=True)
    except SetupError:  # the lists are old, or not there yet
        call("apt-get", "-qq", "update", quiet=True)
        call(*download, folder=part, quiet=True)
    for package in sorted(part.glob("*.deb")):
        call("dpkg-deb", "--extract", package, part, quiet=True)
        package.unlink()
    part.rename(DEBIAN)
