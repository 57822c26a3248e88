"""`python -m tests.benchmarks.listeners HOST PORT COUNT PATH`: so many SSE clients on raw sockets, in one process.

Prints `ready` when every stream has had its snapshot; when its input ends, one JSON object with what they heard.
"""

import asyncio
import json
import re
import resource
import sys
import time
from collections import defaultdict
from typing import Any

MARK = re.compile(rb'"sentAt":\s?([0-9.]+),\s?"burst":\s?([0-9]+)')
PATIENCE = 120


class Listener(asyncio.Protocol):
    """One client. It reads events as they come and notes how old each is."""

    def __init__(self, request: bytes, ages: dict[int, list[float]]) -> None:
        self._request = request
        self._ages = ages
        self._rest = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        at = time.time()
        whole, _, self._rest = (self._rest + data).rpartition(b"\n")
        for sent, burst in MARK.findall(whole):
            self._ages[int(burst)].append(at - float(sent))
        if not self.ready.done() and b"event: snapshot" in whole:
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True


async def listen(host: str, port: int, count: int, path: str) -> dict[str, Any]:
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
    ages: dict[int, list[float]] = defaultdict(list)
    loop = asyncio.get_running_loop()
    listeners = []
    for _ in range(count):
        _, listener = await loop.create_connection(lambda: Listener(request, ages), host, port)
        listeners.append(listener)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(each.ready for each in listeners))
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    return {"ended": sum(each.ended for each in listeners), "ages": dict(ages)}


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, port, count, path = sys.argv[1:]
    print(json.dumps(asyncio.run(listen(host, int(port), int(count), path))))


if __name__ == "__main__":
    main()
