"""One server for the whole run, and the unchanged Python client over each of its two transports."""

import uuid

import pytest
from qdrant_client import QdrantClient

from server import Server


@pytest.fixture(scope="session")
def server():
    running = Server()
    yield running
    running.stop()


@pytest.fixture(params=["rest", "grpc"])
def connect(request, server):
    """Makes a client. A thread wants its own: httpcore closes an idle connection that another thread has just taken
    when the answer comes before the check of whether it is idle ends."""
    grpc = request.param == "grpc"
    return lambda: QdrantClient(url=server.url, grpc_port=server.grpc_port, prefer_grpc=grpc, timeout=300)


@pytest.fixture
def client(connect):
    client = connect()
    yield client
    client.close()


@pytest.fixture
def name(server):
    """A collection name of this test alone; whatever has it is dropped at the end."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    yield name
    QdrantClient(url=server.url, check_compatibility=False).delete_collection(name)
