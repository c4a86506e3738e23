"""Runs a command in a network of its own: ``room.py SOCKET ADDRESS [--disk FOLDER SIZE] COMMAND...``.

The room has a loopback and one interface, whose packets go to whoever holds the other end of SOCKET: it
is sent the interface's descriptor. With ``--disk``, FOLDER is a disk of so many bytes that nobody else
sees. Plain system calls, as ``ip`` and ``mount`` make them, so that neither is needed; who is not root
becomes root in the room. Rule of the file: everything goes when the command ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_REC_PRIVATE = 0x4000 | 0x40000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
IFF_UP, IFF_RUNNING = 1, 0x40
NAME = b"room"

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter() -> None:
    """New namespaces of networks and mounts."""
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(CLONE_NEWNET | CLONE_NEWNS | (CLONE_NEWUSER if user else 0)))
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    check(libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None))


def open_interface(address: str) -> int:
    """An interface at ``address``/24, up; returns the descriptor its packets are read and written by."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", NAME, IFF_TUN | IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command, text in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, "255.255.255.0")):
            where = struct.pack("16sHH4s8x", NAME, socket.AF_INET, 0, socket.inet_aton(text))
            fcntl.ioctl(any_socket, command, where)
        for name in (NAME, b"lo"):
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", name, IFF_UP | IFF_RUNNING))
    return tun


def main(number: str, address: str, *command: str) -> None:
    enter()
    if command[0] == "--disk":
        _, folder, size, *rest = command
        check(libc.mount(b"disk", folder.encode(), b"tmpfs", 0, f"size={size}".encode()))
        command = tuple(rest)
    tun = open_interface(address)
    with socket.socket(fileno=int(number)) as other:
        socket.send_fds(other, [b"."], [tun])
    os.close(tun)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
