"""A door to PostgreSQL that counts what clients ask the server to do."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from attrs import define, field
from psycopg.conninfo import conninfo_to_dict

ENCRYPTION = {80877103, 80877104}
"""Requests for TLS and GSSAPI, which come before the first message."""
BRACKETS = {b"BEGIN", b"COMMIT", b"ROLLBACK"}


@define
class Counted:
    """How many statements went through, whichever protocol they came by; what begins and ends transactions is none."""

    url: str
    statements: int = 0
    connections: int = 0
    _guard: threading.Lock = field(factory=threading.Lock)

    def add(self, *, statements: int = 0, connections: int = 0) -> None:
        with self._guard:
            self.statements += statements
            self.connections += connections


@contextmanager
def counted(url: str) -> Iterator[Counted]:
    """The same database, through a door that counts."""
    known = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        user = f"{quote(known['user'])}:{quote(known.get('password', ''))}".rstrip(":")
        counts = Counted(f"postgresql://{user}@127.0.0.1:{door.getsockname()[1]}/{known['dbname']}?sslmode=disable")
        threading.Thread(target=_accept, args=[door, known, counts], daemon=True).start()
        yield counts


def _accept(door: socket.socket, known: dict[str, str], counts: Counted) -> None:
    while True:
        try:
            client, _ = door.accept()
        except OSError:
            return
        server = _connected(known)
        counts.add(connections=1)
        threading.Thread(target=_count, args=[client, server, counts], daemon=True).start()
        threading.Thread(target=_copy, args=[server, client], daemon=True).start()


def _connected(known: dict[str, str]) -> socket.socket:
    host, port = known.get("host", "127.0.0.1"), int(known.get("port") or 5432)
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(Path(host) / f".s.PGSQL.{port}"))
    return server


def _count(client: socket.socket, server: socket.socket, counts: Counted) -> None:
    buffer, is_started = b"", False
    known, bound = dict[bytes, bytes](), b""
    with suppress(OSError):
        while data := client.recv(65_536):
            buffer += data
            while True:
                start = 1 if is_started else 0
                if len(buffer) < start + 4:
                    break
                length = start + int.from_bytes(buffer[start : start + 4])
                if len(buffer) < length:
                    break
                if is_started:
                    kind, parts = buffer[:1], buffer[5:length].split(b"\0")
                    if kind == b"P":
                        known[parts[0]] = parts[1]
                    elif kind == b"B":
                        bound = known.get(parts[1], b"")
                    elif kind in {b"Q", b"E"}:
                        counts.add(statements=(parts[0] if kind == b"Q" else bound) not in BRACKETS)
                elif int.from_bytes(buffer[4:8]) not in ENCRYPTION:
                    is_started = True
                buffer = buffer[length:]
            server.sendall(data)
    _shut(server)
    client.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    _shut(target)
    source.close()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
