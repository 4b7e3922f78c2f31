"""The program that calls mycontainer's Python functions for the subject `ours-api`, when it is told to.

It is a process of its own, since containers must not be started from one with threads (a notebook's kernel,
one that draws a progress bar), and since the fork of a process with 500 MB would be what is measured. It says
one line of JSON for each that it reads, on the socket that is its standard input.

    {"start": ID, "argv": [...], "root": DIR, "network": "none", "limit": 512} and two descriptors, the output
    {"stop": ID}
"""

from __future__ import annotations

import json
import os
import socket
import sys

from mycontainer import api
from mycontainer.errors import ContainerError
from mycontainer.spawn import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def serve(orders: socket.socket) -> None:
    """Do as we are told, until nobody is there any more."""
    running: dict[str, Process] = {}
    while True:
        text, fds, _, _ = socket.recv_fds(orders, 65536, 2)
        if not text:
            break
        order = json.loads(text)
        answer: dict[str, Any] = {}
        try:
            if "start" in order:
                process = running[order["start"]] = start(order, *fds)
                answer = {"pid": process.pid, "runner": process.runner}
            elif order["stop"] in running:
                process = running.pop(order["stop"])
                process.kill()
                answer = {"code": process.wait()}
        except (ContainerError, OSError) as error:
            answer = {"error": str(error)}
        orders.send(json.dumps(answer).encode())
    for process in running.values():
        process.kill()
        process.wait()


def start(order: dict[str, Any], stdout: int, stderr: int) -> Process:
    """Start a container with these as its output."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    try:
        return api.start(None, order["argv"], rootfs=order["root"], network=order["network"],
                         pids_limit=order["limit"])
    finally:  # or nobody would ever see the end of the output
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)


if __name__ == "__main__":
    sys.stdout.flush()
    with socket.socket(fileno=os.dup(0)) as orders:
        serve(orders)
