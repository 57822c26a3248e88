"""A TCP link between a client and a server on loopback, which a test can make slow, half open or whole again."""

import contextlib
import socket
import threading
import time

BLOCK = 65_536


class Link:
    """Passes bytes on both ways between its own port and another.

    Set `delay` to hold back every block by so many seconds. `swallow` makes every connection that there is, and every
    new one, half open: it stays up, takes bytes and brings none, also after `heal`; new ones pass again then.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay = 0.0
        self._swallows = False
        self._deaf: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        self._swallows = True
        self._deaf |= self._open

    def heal(self) -> None:
        self._swallows, self.delay = False, 0.0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in (self._listener, *self._open):
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            client.close()
            return
        ends = {client, server}
        self._open |= ends
        if self._swallows:
            self._deaf |= ends
        back = threading.Thread(target=self._carry, args=(server, client), daemon=True)
        back.start()
        self._carry(client, server)
        back.join()
        self._open -= ends
        self._deaf -= ends
        for end in ends:
            end.close()

    def _carry(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(BLOCK):
                time.sleep(self.delay)
                if source not in self._deaf:
                    to.sendall(block)
        if source not in self._deaf:
            with contextlib.suppress(OSError):
                to.shutdown(socket.SHUT_WR)
