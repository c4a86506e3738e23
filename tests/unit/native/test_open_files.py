"""The limit of open files is raised where it may be, and connections counted by it where not."""

import resource

import pytest

from kwaainet.native import open_files
from kwaainet.native.open_files import OTHER_FILES, VISITORS, most_connections, most_visitors

WANTED = 1000
NEED = WANTED + OTHER_FILES + VISITORS
WITHOUT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "found", "connections"),
    [
        (100, 10_000, NEED, WANTED),
        (100, WITHOUT, NEED, WANTED),
        (NEED, NEED, None, WANTED),
        (WITHOUT, WITHOUT, None, WANTED),
        (100, NEED - 1, NEED - 1, WANTED),
        (100, 1024, 1024, 512),
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
    assert most_visitors(WANTED) == VISITORS


@pytest.mark.parametrize(
    ("soft", "connections", "visitors"),
    [(NEED, WANTED, VISITORS), (1024, 512, 256), (WITHOUT, WANTED, VISITORS), (256, 1, 1)],
)
def test_visitors_of_the_site_have_what_is_left(monkeypatch, soft, connections, visitors):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert most_visitors(connections) == visitors
