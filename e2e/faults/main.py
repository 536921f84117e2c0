#!/usr/bin/env python3
"""Faults through the whole stack: `e2e/faults.sh` runs this with the folder of the built programs."""
import shutil
import sys
import time

import clients
import crashes
import disk
from stack import Stack


def step(name, test, *arguments):
    begun = time.monotonic()
    said = test(*arguments)
    print(f"  {name:<22}{time.monotonic() - begun:5.1f} s   {said}", flush=True)


def main(bin_folder):
    stack = Stack(bin_folder)
    # Room for the idle connections, and little more: so that the limit is seen too.
    stack.environment["MODELHUB_SERVER__LIMITS__MAX_CONNECTIONS"] = str(clients.IDLE + 150)
    # The first ones must not be cut for saying nothing while the last ones are opened.
    stack.environment["MODELHUB_SERVER__LIMITS__HEADER_TIMEOUT_MS"] = "3600000"
    try:
        stack.up()
        code, text = stack.ingest()
        assert code == 0, text
        assert stack.asks_well()
        loris = clients.SlowLoris(dict(stack.pods()["tinyinfer-chat"]["ports"])["http"])
        loris.start()
        step("bodies of 100 MB", clients.large_bodies, stack)
        step("broken bodies", clients.broken_bodies, stack)
        step("garbage on every port", clients.garbage_everywhere, stack)
        step("idle connections", clients.idle_connections, stack)
        step("taken", crashes.taken, stack)
        step("slow loris", loris.result)
        for pod in ("tinykv-0", "vectorforge-0", "tinyinfer-embed", "tinyinfer-chat", "modelhub-0"):
            step("kill -9", crashes.in_the_middle, stack, pod)
        step("back-off", crashes.back_off_is_shown, stack)
        step("kill -9 of up", crashes.supervisor, stack)
    except BaseException:
        print(stack.run("logs", "--stack", "quickstart", "--tail", "15")[1][-6000:], file=sys.stderr)
        raise
    finally:
        stack.down("--purge", "--stack", "quickstart")
        shutil.rmtree(stack.state, ignore_errors=True)
    step("full disk", disk.full, bin_folder)


main(*sys.argv[1:])
