"""How many connections a process has files for: the limit it may raise by itself, less what else it opens.

Follows setrlimit(2): the soft limit, often 1,024, can be raised to the hard one by anybody. Rule of the
file: a connection is refused before the system refuses it, which would stop the listener and every file
beside it.
"""

from __future__ import annotations

import logging

try:
    import resource
except ImportError:  # on Windows, which has no such limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

OTHER_FILES = 256  # of listeners, files being sent, databases, logs
VISITORS = 1024  # sockets of the page's site; where files are few, a quarter of them


def most_connections(wanted: int) -> int:
    """Raise the limit of open files as far as ``wanted`` connections need; how many there is room for."""
    if resource is None:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + OTHER_FILES + VISITORS
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= need:
        return wanted
    room = max(1, min(wanted, soft - OTHER_FILES - min(VISITORS, soft // 4)))
    logger.warning("%d connections at most: this process may open %d files (ulimit -Hn)", room, soft)
    return room


def most_visitors(connections: int) -> int:
    """How many sockets of the site there is room for beside so many connections."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource is not None else -1
    if resource is None or soft == resource.RLIM_INFINITY:
        return VISITORS
    return max(1, min(VISITORS, soft - OTHER_FILES - connections))
