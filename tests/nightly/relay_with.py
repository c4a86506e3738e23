"""``kwaainet relay`` on a machine that is not as it should be: ``relay_with.py CLOCK KEEPALIVE FLAGS...``.

CLOCK is a file with the seconds by which the machine's clock is off, read again each time; KEEPALIVE the
seconds of silence after which a connection is asked whether it lives (five times as many at most from when it
began) and after which a WebRTC connection is gone. Rule of the file: nothing else differs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from aioice import ice

from kwaainet.libp2p import connection
from kwaainet.native.cli import main

if __name__ == "__main__":
    clock, connection.KEEPALIVE = Path(sys.argv[1]), float(sys.argv[2])
    connection.HANDSHAKE_TIMEOUT = min(connection.HANDSHAKE_TIMEOUT, 5 * connection.KEEPALIVE)
    ice.CONSENT_INTERVAL = min(ice.CONSENT_INTERVAL, connection.KEEPALIVE / ice.CONSENT_FAILURES)
    right = time.time
    time.time = lambda: right() + float(clock.read_text() or 0)
    sys.argv[1:] = ["relay", *sys.argv[3:]]
    sys.exit(main())
