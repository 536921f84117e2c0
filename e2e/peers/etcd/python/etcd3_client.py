"""Python's etcd3 client against tinykv: what a user of it does on a first day.

usage: etcd3_client.py HOST PORT
"""

import sys
import threading
import time

import etcd3


def main(host: str, port: int) -> None:
    client = etcd3.client(host=host, port=port)
    client.delete_prefix("py/")

    client.put("py/a", "1")
    client.put("py/b", "2")
    value, meta = client.get("py/a")
    assert value == b"1" and meta.key == b"py/a" and meta.version == 1, (value, meta)
    assert client.get("py/none") == (None, None)
    assert [v for v, _ in client.get_prefix("py/")] == [b"1", b"2"]
    assert [v for v, _ in client.get_prefix("py/", sort_order="descend")] == [b"2", b"1"]
    assert client.get("py/a")[1].mod_revision == meta.mod_revision

    assert client.replace("py/a", "1", "one") and not client.replace("py/a", "1", "uno")
    assert client.put_if_not_exists("py/c", "3") and not client.put_if_not_exists("py/c", "4")
    ok, responses = client.transaction(
        compare=[client.transactions.value("py/a") == "one", client.transactions.version("py/b") > 0],
        success=[client.transactions.put("py/d", "4"), client.transactions.get("py/b")],
        failure=[client.transactions.delete("py/a")],
    )
    assert ok and responses[1][0][0] == b"2", responses

    lease = client.lease(ttl=60)
    client.put("py/leased", "x", lease=lease)
    assert lease.granted_ttl == 60 and 0 < lease.remaining_ttl <= 60 and lease.keys == [b"py/leased"]
    assert [r.TTL for r in lease.refresh()] == [60]
    lease.revoke()
    assert client.get("py/leased") == (None, None)

    seen, done = [], threading.Event()

    def on_events(response):
        for event in response.events:
            seen.append((type(event).__name__, event.key, event.value))
            if event.key == b"py/stop":
                done.set()

    watch = client.add_watch_prefix_callback("py/", on_events)
    client.put("py/w", "5")
    client.delete("py/w")
    client.put("py/stop", "6")
    assert done.wait(300), seen
    client.cancel_watch(watch)
    assert seen == [("PutEvent", b"py/w", b"5"), ("DeleteEvent", b"py/w", b""), ("PutEvent", b"py/stop", b"6")], seen

    with client.lock("py-lock", ttl=600) as lock:
        assert lock.is_acquired()

    short = client.lease(ttl=2)
    client.put("py/short", "x", lease=short)
    deadline = time.monotonic() + 300
    while client.get("py/short")[0] is not None:
        assert time.monotonic() < deadline, "a lease that ran out kept its key"
        time.sleep(0.1)

    status = client.status()
    assert status.version.startswith("3.7."), status.version
    assert len(list(client.members)) == 1
    revision = client.get("py/a")[1].mod_revision
    client.compact(revision)
    print(f"etcd3 {etcd3.__version__}: ok at version {status.version}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
