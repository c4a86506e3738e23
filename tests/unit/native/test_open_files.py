"""The limit of open files is raised where it may be, and connections counted by it where not."""

import resource

import pytest

from kwaainet.native import open_files
from kwaainet.native.open_files import OTHER_FILES, most_connections

WANTED = 1000
NEED = WANTED + OTHER_FILES
WITHOUT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "found", "connections"),
    [
        (100, 10_000, NEED, WANTED),
        (100, WITHOUT, NEED, WANTED),
        (NEED, NEED, None, WANTED),
        (WITHOUT, WITHOUT, None, WANTED),
        (100, NEED - 1, NEED - 1, WANTED - 1),
        (OTHER_FILES, OTHER_FILES, OTHER_FILES, 1),
    ],
)
def test_the_limit_is_raised_as_far_as_needed(monkeypatch, soft, hard, found, connections):
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    assert most_connections(WANTED) == connections
    assert given == ([] if found is None else [(found, hard)])


def test_a_system_without_the_limit_has_room(monkeypatch):
    monkeypatch.setattr(open_files, "resource", None)
    assert most_connections(WANTED) == WANTED
