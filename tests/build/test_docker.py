"""The container files agree with the command and with each other; no Docker is needed, nor used here."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import yaml

from kwaainet.native.cli.relay import PREFIX, declare
from kwaainet.native.cli.relay_config import check

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "build" / "docker"


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: (name, the rest), lines joined."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line.strip()]


def environment() -> dict[str, str]:
    given = [part for name, rest in instructions() if name == "ENV" for part in shlex.split(rest)]
    return dict(part.split("=", 1) for part in given)


def test_the_images_settings_are_ones_that_the_relay_knows() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["relay"]
    host = "relay.example"
    more = {
        name: re.sub(r"\$\{RELAY_HOST[^}]*\}", host, text) for name, text in compose["environment"].items()
    }
    settings = declare(argparse.ArgumentParser()).resolve(argparse.Namespace(), environment() | more)
    assert settings["announce"].value == [f"/dns4/{host}/tcp/4001", f"/dns4/{host}/tcp/4002/ws"]
    assert settings["drain"].value < float(compose["stop_grace_period"].removesuffix("s"))
    check(settings)


def test_ports_volumes_and_files_agree() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["relay"]
    told = dict(instructions())
    exposed = set(told["EXPOSE"].split())
    assert {port.split(":")[1] for port in compose["ports"]} == exposed
    listened = {part.split("/")[4] for part in environment()[f"{PREFIX}LISTEN"].split()}
    assert listened | {environment()[f"{PREFIX}HTTP"].split(":")[1]} == exposed
    assert [one.split(":")[1] for one in compose["volumes"]] == [told["VOLUME"]]
    assert environment()[f"{PREFIX}STATE_DIR"] == told["VOLUME"]
    assert (DOCKER / compose["build"]["context"]).resolve() == ROOT
    assert (ROOT / compose["build"]["dockerfile"]).samefile(DOCKER / "Dockerfile")
    assert json.loads(told["ENTRYPOINT"])[1:] == ["relay"]
    copied = next(rest for name, rest in instructions() if name == "COPY").split()[:-1]
    for pattern in copied:
        assert list(ROOT.glob(pattern)), pattern
    assert told["USER"].split(":")[0] != "0"


def test_the_images_lock_is_the_tested_one() -> None:
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "build/requirements/dev.txt").read_text(), re.M))
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "build/requirements/relay.txt").read_text(), re.M))
    assert {"cryptography", "picows", "aiohttp", "numpy"} <= pinned.keys()
    assert "onnxruntime" not in pinned
    assert pinned.items() <= tested.items()
