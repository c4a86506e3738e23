"""Who runs next on an engine that runs one thing at a time: decode steps of many sessions, and prompts.

Continuous batching as in Orca and vLLM, with chunked prefill as in Sarathi. Rule of the file:
sans-IO and deterministic; times are seconds of any clock that only goes forward.

* Decode steps that wait when the engine is free go together, up to ``MAX_ROWS`` rows a round.
* Prompts go in chunks, one a turn; while others decode, a chunk is about as much work as their last
  round, and rounds and chunks alternate: neither gets less than about half of the time.
* Turns go round by peer, and by session within a peer: who has many sessions gets no more turns than
  who has one. While a step waits, no other peer has more turns than its own, and no other session of
  its peer more than one: of P peers and with k sessions of its own peer, at most P k steps go first,
  and at most one chunk between two rounds.
* Sessions in lock-step stay so: when a step waits and others that went with it are due back within a
  fraction of what a round takes, ``hold`` says to wait for them. Their clients send the next step when
  they have the last, some milliseconds later; a round without them would cost them all a second one.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..types import PeerId

MAX_ROWS = 32  # of one round of decode steps
MAX_PEERS = 256  # whose last turn is remembered while nothing of theirs waits
MAX_CHUNK = 128  # positions x rows of a prompt in one turn, when nobody decodes
MIN_CHUNK = 16  # the same beside decoding: fewer would read the weights too often
QUIET_TURNS = 4  # chunks in a row without a step, after which nobody is said to decode
HOLD_SHARE = 0.25  # of the last round's time that a round may be held for those that are due
DUE_FACTOR = 1.5  # times its usual absence, a session is still expected


@dataclass(slots=True, eq=False)
class Job:
    """A session's wish to run ``tokens`` more positions on each of ``rows`` rows."""

    session: Hashable
    peer: PeerId | None
    rows: int
    tokens: int


J = TypeVar("J", bound=Job)


@dataclass(frozen=True, slots=True)
class Work(Generic[J]):
    """What to run now: a round of steps, or the next ``tokens`` positions of one prompt."""

    jobs: tuple[J, ...]
    tokens: int
    is_round: bool
    started: float

    @property
    def rows(self) -> int:
        """Rows of all jobs."""
        return sum(job.rows for job in self.jobs)


class _Line(Generic[J]):
    """Jobs that wait. The first is of the peer whose last turn is longest ago, and of that peer's session
    of which the same is true.

    Who was not seen before is as if it had just had a turn: names are cheap.
    """

    def __init__(self) -> None:
        self._peers: dict[PeerId | None, list[J]] = {}
        self._peer_turns: dict[PeerId | None, int] = {}
        self._session_turns: dict[Hashable, int] = {}
        self._turn = 0

    def __bool__(self) -> bool:
        return bool(self._peers)

    def add(self, job: J) -> None:
        self._peers.setdefault(job.peer, []).append(job)
        self._peer_turns.setdefault(job.peer, self._turn)
        self._session_turns.setdefault(job.session, self._turn)
        if len(self._peer_turns) > MAX_PEERS:
            self._peer_turns = {peer: self._peer_turns[peer] for peer in self._peers}

    def discard(self, job: J) -> None:
        jobs = self._peers.get(job.peer)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._peers[job.peer]

    def forget(self, session: Hashable) -> None:
        self._session_turns.pop(session, None)

    def first(self) -> J:
        jobs = self._peers[min(self._peers, key=self._peer_turns.__getitem__)]
        return min(jobs, key=lambda job: self._session_turns.get(job.session, 0))

    def take(self) -> J:
        """The first job, which is its peer's and its session's turn."""
        job = self.first()
        self.discard(job)
        self._turn += 1
        self._peer_turns[job.peer] = self._session_turns[job.session] = self._turn
        return job


@dataclass(slots=True)
class _Absence:
    """A session whose step was answered ``since``; it usually comes back after ``usual`` seconds."""

    since: float
    usual: float | None = None
    here: bool = False

    def due(self, now: float) -> float:
        """Seconds for which it is still expected; 0 where it is not."""
        if self.here or self.usual is None:
            return 0.0
        return max(0.0, self.since + DUE_FACTOR * self.usual - now)


@dataclass
class Scheduler(Generic[J]):
    """A session has at most one job at a time: waiting, or in the work that was given out last."""

    max_chunk: int = MAX_CHUNK
    _steps: _Line[J] = field(default_factory=_Line)
    _prompts: _Line[J] = field(default_factory=_Line)
    _absent: dict[Hashable, _Absence] = field(default_factory=dict)
    _last_rows: int = 0  # of the last round of steps
    _last_seconds: float = 0.0
    _chunks_since_steps: int = QUIET_TURNS
    _held_since: float | None = None

    def add(self, job: J, now: float) -> None:
        """The job waits from now on."""
        (self._steps if job.tokens == 1 else self._prompts).add(job)
        absence = self._absent.setdefault(job.session, _Absence(now, here=True))
        if not absence.here:
            absence.here = True
            away = now - absence.since
            absence.usual = away if absence.usual is None else (absence.usual + away) / 2

    def discard(self, job: J) -> None:
        """The job waits no more, if it did."""
        self._steps.discard(job)
        self._prompts.discard(job)

    def forget(self, session: Hashable) -> None:
        """The session has ended."""
        self._absent.pop(session, None)
        self._steps.forget(session)
        self._prompts.forget(session)

    def hold(self, now: float) -> float:
        """Seconds worth waiting before ``next``, because more steps are due; 0: go on at once."""
        if not self._steps or self._prompts:
            self._held_since = None
            return 0.0
        if self._held_since is None:
            self._held_since = now
        left = self._held_since + HOLD_SHARE * self._last_seconds - now
        due = [seconds for absence in self._absent.values() if 0 < (seconds := absence.due(now)) <= left]
        return max(due, default=0.0)

    def next(self, now: float) -> Work[J] | None:
        """What to run now; ``None`` if nothing waits. Its jobs wait no more."""
        self._held_since = None
        if self._steps and (not self._prompts or self._chunks_since_steps > 0):
            self._chunks_since_steps = 0
            return Work(self._round(), 1, True, now)
        if not self._prompts:
            return None
        quiet = self._chunks_since_steps >= QUIET_TURNS and not self._steps
        self._chunks_since_steps += 1
        job = self._prompts.take()
        size = self.max_chunk if quiet else min(self.max_chunk, max(MIN_CHUNK, self._last_rows))
        return Work((job,), min(job.tokens, max(1, size // job.rows)), False, now)

    def done(self, work: Work[J], now: float) -> None:
        """The work has run, or failed; jobs with positions left are to be added again."""
        for job in work.jobs:
            job.tokens -= work.tokens
        if not work.is_round:
            return
        self._last_rows, self._last_seconds = work.rows, now - work.started
        for job in work.jobs:
            absence = self._absent.get(job.session)
            if absence is not None:  # else it has ended meanwhile
                absence.since, absence.here = now, False

    def _round(self) -> tuple[J, ...]:
        jobs = [self._steps.take()]
        rows = jobs[0].rows
        while self._steps and rows + self._steps.first().rows <= MAX_ROWS:
            jobs.append(self._steps.take())
            rows += jobs[-1].rows
        return tuple(jobs)
