"""The ports stay one page of typed, documented promises; their adapters' suites test behaviour."""

from __future__ import annotations

import inspect
import typing

import pytest

from kwaainet import ports

PORTS = [
    value
    for value in vars(ports).values()
    if inspect.isclass(value) and value.__module__ == ports.__name__ and issubclass(value, typing.Protocol)
]
METHODS = [
    (port, name, member.fget if isinstance(member, property) else member)
    for port in PORTS
    for name, member in vars(port).items()
    if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
]
# What may take time: the rest must answer at once, because sans-IO code calls it.
BLOCKING = {ports.Stream, ports.Host, ports.Engine, ports.Gradients, ports.BlobStore, ports.RangeSource}
IMMEDIATE = {
    *("peer_id", "addresses", "remote_peer", "handle_unary", "handle_stream"),  # of hosts and streams
    *("backend", "graphs", "half"),  # of engines
}


def test_these_are_the_ports() -> None:
    names = {port.__name__ for port in PORTS}
    assert names == {
        "Stream",
        "Host",
        "Engine",
        "Gradients",
        "BlobStore",
        "RangeSource",
        "Aead",
        "Exchange",
        "Crypto",
    }


@pytest.mark.parametrize("port", PORTS)
def test_every_port_says_what_it_is(port: type) -> None:
    assert port.__doc__


@pytest.mark.parametrize(("port", "name", "method"), METHODS)
def test_every_promise_is_typed(port: type, name: str, method: object) -> None:
    assert callable(method)
    hints = typing.get_type_hints(method)
    arguments = [argument for argument in inspect.signature(method).parameters if argument != "self"]
    assert set(hints) == {*arguments, "return"}


@pytest.mark.parametrize(("port", "name", "method"), METHODS)
def test_what_takes_time_is_awaited_and_nothing_else(port: type, name: str, method: object) -> None:
    awaited = port in BLOCKING and name not in IMMEDIATE
    assert inspect.iscoroutinefunction(method) == awaited
