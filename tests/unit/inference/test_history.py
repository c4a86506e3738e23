import numpy as np
import pytest

from kwaainet.errors import CapacityError
from kwaainet.inference.chain import Step
from kwaainet.inference.history import Budget, History


def positions(*values: float, batch: int = 1) -> np.ndarray:
    rows = [[[value + 10 * row, -value] for value in values] for row in range(batch)]
    return np.array(rows, dtype=np.float32)


def contents(history: History, size: int = 100) -> list[float]:
    return [float(v) for piece in history.pieces(0, history.length, size) for v in piece[0, :, 0]]


def test_steps_follow_each_other() -> None:
    history = History(Budget(1 << 20))
    history.record(Step("a", 0), positions(1, 2))
    history.record(Step("b", 2), positions(3))
    assert history.length == 3
    assert contents(history) == [1, 2, 3]
    assert [piece.shape[1] for piece in history.pieces(0, 3, 2)] == [2, 1]
    assert [float(v) for piece in history.pieces(1, 3, 1) for v in piece[0, :, 0]] == [2, 3]


def test_a_step_tried_again_is_recorded_once() -> None:
    history = History(Budget(1 << 20))
    for _ in range(2):
        history.record(Step("a", 0), positions(1, 2))
    assert contents(history) == [1, 2]


def test_a_step_that_starts_earlier_replaces_what_was_there() -> None:
    history = History(Budget(1 << 20))
    history.record(Step("a", 0), positions(1, 2, 3))
    history.record(Step("b", 1), positions(9))
    assert contents(history) == [1, 9]


def test_rows_are_reordered_before_the_step_and_once() -> None:
    history = History(Budget(1 << 20))
    history.record(Step("a", 0), positions(1, 2, batch=2))
    for _ in range(2):
        history.record(Step("b", 2, (1, 1)), positions(3, batch=2))
    (piece,) = history.pieces(0, 3, 8)
    assert piece[:, :, 0].tolist() == [[11, 12, 3], [11, 12, 13]]


def test_what_is_replayed_has_its_rows_in_order_already() -> None:
    history = History(Budget(1 << 20))
    history.record(Step("a", 0), positions(7, batch=2))
    step = Step("b", 2, (1, 0))
    history.start_again(step)
    history.append(positions(1, 2, batch=2))
    history.record(step, positions(3, batch=2))
    (piece,) = history.pieces(0, 3, 8)
    assert piece[:, :, 0].tolist() == [[1, 2, 3], [11, 12, 13]]


def test_growing_keeps_what_is_there() -> None:
    history = History(Budget(1 << 20))
    for number in range(200):
        history.record(Step(str(number), number), positions(number))
    assert contents(history, 7) == list(range(200))


def test_the_budget_is_shared_held_and_given_back() -> None:
    budget = Budget(64 * 2 * 4 * 2)
    one, other = History(budget), History(budget)
    one.append(positions(1))
    other.append(positions(1))
    with pytest.raises(CapacityError, match="history_bytes"):
        other.append(np.zeros((1, 64, 2), np.float32))
    assert contents(other) == [1]
    one.release()
    other.append(np.zeros((1, 64, 2), np.float32))
    other.release()
    assert budget.used == 0


def test_a_budget_within_another_takes_from_both() -> None:
    whole = Budget(100)
    one, other = Budget(80, whole), Budget(80, whole)
    one.take(70)
    with pytest.raises(CapacityError, match="110 bytes, 100 are allowed"):
        other.take(40)
    assert (one.used, other.used, whole.used) == (70, 0, 70)
    with pytest.raises(CapacityError, match="90 bytes, 80 are allowed"):
        one.take(20)
    one.give_back(70)
    assert whole.used == 0


def test_pieces_are_copies() -> None:
    history = History(Budget(1 << 20))
    history.append(positions(1))
    (piece,) = history.pieces(0, 1, 1)
    piece[:] = 0
    assert contents(history) == [1]
