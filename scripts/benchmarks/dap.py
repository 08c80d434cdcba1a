"""A small client of the Debug Adapter Protocol: enough to let debugpy run a script to its end.

https://microsoft.github.io/debug-adapter-protocol/specification: every message is JSON after a
`Content-Length` header. The order that debugpy needs: `initialize`, `attach` (answered only at the
end), the event `initialized`, the breakpoints, `configurationDone`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measuring import BenchError

HOST = "127.0.0.1"
TIMEOUT = 20.0
"""Seconds for the adapter to be there, and for each of its answers."""


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """A line of a file, counted from 1, and the expression that is asked there."""

    file: Path
    line: int
    condition: str


class Client:
    """A connection to a debug adapter. What comes while something else is awaited is kept."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._stream = connection.makefile("rb")
        self._sent = 0
        self._kept: list[dict[str, Any]] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, command: str, arguments: Mapping[str, Any]) -> int:
        """Sends a request; returns its number, by which its response is known."""
        self._sent += 1
        message = {"seq": self._sent, "type": "request", "command": command}
        body = json.dumps({**message, "arguments": arguments}).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return self._sent

    def response(self, number: int) -> dict[str, Any]:
        """The body of the response to the request of that number. Raises BenchError."""

        def answers(message: dict[str, Any]) -> bool:
            return message["type"] == "response" and message["request_seq"] == number

        message = self._awaited(answers, TIMEOUT, f"answer to request {number}")
        return message.get("body") or {}

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request and waits for the body of its response. Raises BenchError."""
        return self.response(self.send(command, arguments))

    def event(self, *names: str, timeout: float | None = TIMEOUT) -> str:
        """Waits for one of these events; returns its name. Raises BenchError."""

        def is_one(message: dict[str, Any]) -> bool:
            return message["type"] == "event" and message["event"] in names

        return str(self._awaited(is_one, timeout, f"event {' or '.join(names)}")["event"])

    def _awaited(
        self, wanted: Callable[[dict[str, Any]], bool], timeout: float | None, what: str
    ) -> dict[str, Any]:
        for message in self._kept:
            if wanted(message):
                self._kept.remove(message)
                return message
        self._socket.settimeout(timeout)
        try:
            while not wanted(message := self._read()):
                self._kept.append(message)
        except TimeoutError:
            raise BenchError(f"debugpy sent no {what} within {timeout:g} s") from None
        except (OSError, ValueError) as error:
            raise BenchError(f"debugpy sent no {what}: {error}") from None
        return message

    def _read(self) -> dict[str, Any]:
        """The next message. Raises OSError at the end of the connection, TimeoutError, and
        BenchError where it says that a request was refused."""
        length = 0
        while line := self._stream.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._stream.read(length)
        if not length or len(body) < length:
            raise ConnectionError("the connection ended")
        message: dict[str, Any] = json.loads(body)
        if message["type"] == "response" and not message["success"]:
            raise BenchError(f"debugpy refused {message['command']}: {message.get('message')}")
        return message


def free_port() -> int:
    """A port that nobody listens on, as the system gives it."""
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def connected(port: int, alive: Callable[[], bool]) -> Client:
    """A client of the adapter that is about to listen on the port. Raises BenchError."""
    deadline = time.monotonic() + TIMEOUT
    while alive() and time.monotonic() < deadline:
        try:
            return Client(socket.create_connection((HOST, port), TIMEOUT))
        except ConnectionRefusedError:
            time.sleep(0.01)
    why = f"did not listen within {TIMEOUT:g} s" if alive() else "ended before it listened"
    raise BenchError(f"debugpy {why}")


def run_to_the_end(client: Client, breakpoints: Sequence[Breakpoint]) -> None:
    """Attaches, sets the breakpoints, lets the script run, and waits until it has ended.

    Raises BenchError where a breakpoint is not taken, or one stops.
    """
    client.request("initialize", adapterID="debugpy", pathFormat="path")
    attach = client.send("attach", {"justMyCode": True})  # as an editor does, unless told not to
    client.event("initialized")
    set_breakpoints(client, breakpoints)
    client.request("configurationDone")
    client.response(attach)
    # The bench limits the whole row: a conversion may take its time.
    if client.event("stopped", "terminated", timeout=None) == "stopped":
        raise BenchError("debugpy stopped at a breakpoint whose condition is never true")


def set_breakpoints(client: Client, breakpoints: Sequence[Breakpoint]) -> None:
    """Sets them, those of a file together. Raises BenchError where one is not taken."""
    for file, group in groupby(breakpoints, key=lambda each: each.file):
        lines = [{"line": each.line, "condition": each.condition} for each in group]
        source = {"path": str(file)}
        answer = client.request("setBreakpoints", source=source, breakpoints=lines)
        taken = [each["line"] for each in answer["breakpoints"] if each["verified"]]
        if taken != [each["line"] for each in lines]:
            raise BenchError(f"debugpy was asked for {lines} in {file} and took {taken}")
