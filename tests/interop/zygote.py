"""Forks scripts from one interpreter that has imported what they need already.

For most of them importing is most of their work: that of torch, hivemind and petals, or of a relay.
``zygote.py SOCKET FOLDER MODULE...`` imports the modules, found in FOLDER or installed. Then it takes one
request a connection, a JSON line {argv, cwd, env, out, err}, and answers in two: the process id, and the exit
code once it ended. It goes when its standard input ends. Rule of the file: a child has what a fresh
interpreter would: a session, streams, environment, arguments, path and chance of its own; nothing is started
before the fork, least of all a thread.
"""

import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path


def become(request):
    """In a child: what the request asks for."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()
    sys.argv = request["argv"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


def tell(connection, number):
    try:
        connection.sendall(b"%d\n" % number)
    except OSError:  # nobody waits for it any more
        connection.close()


def serve(path):
    """The request that this process is the child for; None in the zygote once it is to end."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".part")
    server.listen(64)
    os.replace(path + ".part", path)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting = {}  # process id -> the connection that awaits its exit code
    gc.freeze()
    while True:
        ready, _, _ = select.select([sys.stdin, server, woken], [], [])
        if sys.stdin in ready:
            return None
        if woken in ready:
            os.read(woken, 4096)
            while waiting and (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                with waiting.pop(ended[0]) as connection:
                    tell(connection, os.waitstatus_to_exitcode(ended[1]))
        if server in ready:
            connection, _ = server.accept()
            with connection.makefile() as lines:
                request = json.loads(lines.readline())
            assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork would lose threads"
            if (pid := os.fork()) != 0:
                waiting[pid] = connection
                continue
            os.setsid()
            tell(connection, os.getpid())
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (server, connection, *waiting.values()):
                one.close()
            os.close(woken)
            os.close(wake)
            return request


if __name__ == "__main__":
    address, sys.path[0], *modules = sys.argv[1:]
    for module in modules:
        import_module(module)
    asked = serve(address)
    if asked is not None:
        become(asked)
