"""Hostile and merely unlucky clients."""
import json
import os
import random
import resource
import socket
import struct
import threading
import time

from stack import check_error, resident_kib, wait_for

# As many as the limit of open files allows, here and in ModelHub.
IDLE = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1_200)
# The servers' own setting.
HEADER_SECONDS = 10


def connect(port, timeout=300):
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def listens(port):
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return False
    return True


def exchange(port, request, timeout=300):
    """Sends bytes and reads until the other side closes, or nothing comes for a while."""
    with connect(port, timeout) as connection:
        try:
            connection.sendall(request)
        except OSError:
            pass  # The answer may come, and the connection end, before all is sent.
        reply = b""
        try:
            while piece := connection.recv(65536):
                reply += piece
                if b"\r\n\r\n" in reply and len(reply) >= length_of(reply):
                    break
        except OSError:
            pass
        return reply


def length_of(reply):
    head, _, _ = reply.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(head) + 4 + int(value)
    return 1 << 62


def post(port, path, body, headers=()):
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", "connection: close"]
    if not any(header.startswith("transfer-encoding") for header in headers):
        lines.append(f"content-length: {len(body)}")
    head = "\r\n".join([*lines, *headers, "", ""]).encode()
    return exchange(port, head + body)


def status_of(reply):
    return int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/1.1 ") else None


def message_of(reply):
    return json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["message"]


def idle_connections(stack):
    """10,000 connections that say nothing: the asks go on, memory stays bounded, and afterwards all is as before."""
    pid = stack.pods()["modelhub-0"]["process"]["pid"]
    before = resident_kib(pid)
    idle = []
    try:
        for _ in range(IDLE):
            idle.append(connect(stack.port))
        code, text = stack.ask()
        assert code == 0, text
        grown = resident_kib(pid) - before
        each = grown / IDLE
        assert each < 24, f"{each:.1f} KiB of memory a connection"
        # The limit of this stack is a little above: what comes over it is told so at once.
        over = []
        for _ in range(160):
            over.append(connect(stack.port))
        reply = wait_for("it is told", lambda: exchange(stack.port, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"))
        assert status_of(reply) == 503 and b"retry-after: 1" in reply.lower(), reply[:300]
        assert "its most (server.limits.max_connections)" in message_of(reply), reply
        for connection in over:
            connection.close()
    finally:
        for connection in idle:
            connection.close()
    wait_for("asks work again when the connections are gone", stack.asks_well)
    return f"{IDLE} connections, {each:.1f} KiB each, and over the limit 503"


class SlowLoris(threading.Thread):
    """Headers dripped a byte at a time; runs beside the other tests, because it waits for the header timeout."""

    def __init__(self, port, connections=50):
        super().__init__(daemon=True)
        self.port, self.connections, self.lived, self.replies = port, connections, [], []

    def run(self):
        begun = time.monotonic()
        open_ones = [connect(self.port) for _ in range(self.connections)]
        for connection in open_ones:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: ")
            connection.setblocking(False)
        while open_ones and time.monotonic() - begun < HEADER_SECONDS + 300:
            time.sleep(0.5)
            for connection in list(open_ones):
                try:
                    connection.send(b"a")
                    reply = connection.recv(4096)
                except BlockingIOError:
                    continue
                except OSError:
                    reply = b""
                self.replies.append(reply)
                self.lived.append(time.monotonic() - begun)
                open_ones.remove(connection)
                connection.close()

    def result(self):
        self.join()
        assert len(self.lived) == self.connections, f"only {len(self.lived)} of {self.connections} were cut"
        assert min(self.lived) > HEADER_SECONDS / 2, f"one was cut after {min(self.lived):.1f} s, which is not for its slowness"
        return f"{self.connections} connections cut after {max(self.lived):.1f} s"


def large_bodies(stack):
    """100 MB, declared and not: 413 with a sentence, and the connection is not reset before it can be read."""
    path = "/v1/chat/completions"
    declared = post(stack.port, path, b"a" * 100_000_000)
    assert status_of(declared) == 413, declared[:300]
    check_error(message_of(declared))
    piece = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    chunked = post(stack.port, path, piece * 1600, ["transfer-encoding: chunked"])
    assert status_of(chunked) == 413, chunked[:300]
    return message_of(declared)


def broken_bodies(stack):
    """Every one gets a 4xx with a sentence, and none a 5xx or silence."""
    nested = b"[" * 200_000 + b"]" * 200_000
    bodies = {
        "invalid UTF-8": b'{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        "not JSON": b"hello",
        "half of it": b'{"model": "smollm2',
        "empty": b"",
        "deep": nested,
        "a list": b"[]",
        "a number that is none": b'{"model": "smollm2-135m-instruct", "temperature": NaN}',
        "NUL": b"\0" * 1000,
    }
    paths = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/api/v1/rag/handbook/query", "/api/v1/rag"]
    for path in paths:
        for what, body in bodies.items():
            reply = post(stack.port, path, body)
            assert status_of(reply) is not None and 400 <= status_of(reply) < 500, (path, what, reply[:300])
            check_error(message_of(reply))
    # A body that never comes whole is cut by its own timeout; a length that lies is not waited for beyond the client.
    with connect(stack.port) as half:
        half.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    return f"{len(paths)} paths x {len(bodies)} bodies"


def garbage_everywhere(stack):
    """Every port of every pod gets what is meant for another protocol, or for none; nobody so much as restarts."""
    before = stack.restarts()
    seeded = random.Random(7)
    h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = struct.pack(">I", 0)[1:] + b"\x04\x00" + b"\0\0\0\0"
    lies = struct.pack(">I", 0xFFFFFF)[1:] + b"\x00\x00" + b"\0\0\0\x01"
    grpc = b"\x00\xff\xff\xff\xffgarbage"
    requests = [
        os.urandom(4096),
        seeded.randbytes(1 << 16),
        b"\0" * 4096,
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /etcdserverpb.KV/Range HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 12\r\n\r\n" + grpc,
        b"POST /qdrant.Points/Query HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 12\r\n\r\n" + grpc,
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"X" * 200_000,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        h2 + settings + lies,
        h2 + os.urandom(2048),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    ]
    named = [(name, port) for name, pod in stack.pods().items() for _, port in pod["ports"]]
    # A door that this version does not serve is closed.
    ports = [(name, port) for name, port in named if listens(port)]
    for name, port in ports:
        for request in requests:
            reply = exchange(port, request, timeout=1)
            assert status_of(reply) != 500, (name, port, request[:60], reply[:300])
    assert stack.restarts() == before, stack.restarts()
    assert stack.all_ready() and stack.asks_well()
    return f"{len(ports)} ports x {len(requests)} kinds of it"
