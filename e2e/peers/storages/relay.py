#!/usr/bin/env python3
"""A way to a server that dies: relay.py PORT SERVER_PORT BYTES [SECONDS]. Once so many bytes have passed, either way, every connection ends and
none is taken; with SECONDS it is back after that time, and stays. RATE lets so many bytes a second pass."""
import os
import socket
import sys
import threading
import time

port, server, limit = (int(text) for text in sys.argv[1:4])
away = float(sys.argv[4]) if len(sys.argv) > 4 else None
rate = int(os.environ.get("RATE", 0))
lock, dead = threading.Lock(), threading.Event()
connections: list[socket.socket] = []
passed = 0


def close(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # The other side was faster.


def forward(source: socket.socket, target: socket.socket) -> None:
    global passed
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
            with lock:
                # With the lock held: all connections share one line.
                if rate:
                    time.sleep(len(piece) / rate)
                passed += len(piece)
                if passed > limit and not dead.is_set():
                    dead.set()
                    for connection in [listener, *connections]:
                        close(connection)
    except OSError:
        pass  # Either side may go whenever it likes.
    close(source)
    close(target)


def serve() -> None:
    while True:
        client, _ = listener.accept()
        upstream = socket.create_connection(("127.0.0.1", server))
        with lock:
            connections.extend([client, upstream])
        for pair in [(client, upstream), (upstream, client)]:
            threading.Thread(target=forward, args=pair, daemon=True).start()


listener = socket.create_server(("127.0.0.1", port))
try:
    serve()
except OSError:
    listener.close()
if away is not None:
    time.sleep(away)
    listener = socket.create_server(("127.0.0.1", port))
    serve()
