"""`python -m tests.benchmarks.flooder HOST PORT KIND COUNT`: so many connections that mean no good, in one process.

Prints `ready` when all of them were tried; until its input ends it comes back wherever it is hung up on. Then it prints
one JSON object with how often it connected.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress

from api.connections import allow_files

DRIP_SECONDS = 1.0
AGAIN_SECONDS = 1.0
AT_ONCE = 200
"""Connections that are being made at a time; the listener's queue holds some thousand."""
PIECE = b"x" * 65_536
MESSAGE = b"\x81\xfe\x10\x00\0\0\0\0" + b"x" * 4096
"""A masked text frame of a WebSocket."""

Flood = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Coroutine[None, None, None]]


async def idle(reader: asyncio.StreamReader, _: asyncio.StreamWriter, __: str) -> None:
    await reader.read(1)


async def slow_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
    for byte in f"GET /health/live HTTP/1.1\r\nHost: {host}\r\nX: {'x' * 1000}":
        writer.write(byte.encode())
        await writer.drain()
        await asyncio.sleep(DRIP_SECONDS)


async def slow_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
    writer.write(_post(host) + b"Content-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(DRIP_SECONDS)


async def endless_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
    writer.write(_post(host) + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + PIECE + b"\r\n")
        await writer.drain()


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
    """Listens, and never reads."""
    writer.write(f"GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await reader.read(1)
    await asyncio.Event().wait()


async def messages(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
    key = "Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
    writer.write(f"GET /api/v1/ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{key}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    while True:
        writer.write(MESSAGE * 50)
        await writer.drain()


FLOODS: dict[str, Flood] = {
    each.__name__: each for each in (idle, slow_head, slow_body, endless_body, streams, messages)
}


def _post(host: str) -> bytes:
    return f"POST /api/v1/models/add HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n".encode()


class Flooder:
    def __init__(self, host: str, port: int, kind: str) -> None:
        self._place = host, port
        self._flood = FLOODS[kind]
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.connected = 0

    async def again_and_again(self, tried: asyncio.Event) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                async with self._gate:
                    reader, writer = await asyncio.open_connection(*self._place)
                self.connected += 1
                tried.set()
                try:
                    await self._flood(reader, writer, "{}:{}".format(*self._place))
                finally:
                    writer.close()
            tried.set()
            await asyncio.sleep(AGAIN_SECONDS)


async def flood(host: str, port: int, kind: str, count: int) -> dict[str, int]:
    flooder, tried = Flooder(host, port, kind), [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(flooder.again_and_again(each)) for each in tried]
    await asyncio.gather(*(each.wait() for each in tried))
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"connected": flooder.connected}


def main() -> None:
    host, port, kind, count = sys.argv[1:]
    allow_files(int(count))
    print(json.dumps(asyncio.run(flood(host, int(port), kind, int(count)))))


if __name__ == "__main__":
    main()
