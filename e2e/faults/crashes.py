"""kill -9, of every component in the middle of asks and of the supervisor; ports and stacks that are taken."""
import os
import re
import signal
import subprocess
import threading
import time

from stack import Stack, check_error, is_alive, wait_for


def in_the_middle(stack, pod):
    """Asks run while a pod dies: each ends well or with a sentence, and asks work again when the pod is back."""
    old = stack.pods()[pod]["process"]["pid"]
    outcomes = []
    asking = [threading.Thread(target=lambda: outcomes.append(stack.ask())) for _ in range(3)]
    for thread in asking:
        thread.start()
    time.sleep(0.15)  # The asks are on their way; which step they are at does not matter.
    os.kill(old, signal.SIGKILL)
    begun = time.monotonic()
    outcomes.append(stack.ask())
    for thread in asking:
        thread.join()
    for code, text in outcomes:
        if code != 0:
            assert code == 1 and "error: " in text, (pod, code, text)
            check_error(text[text.index("error: "):])
    seen = wait_for(f"{pod} runs again", lambda: (p := stack.pods()[pod])["process"]["pid"] not in (0, old) and p)
    assert seen["restarts"] >= 1, seen
    wait_for("every pod is Ready", stack.all_ready)
    wait_for(f"asks work again after {pod}", stack.asks_well)
    back = time.monotonic() - begun
    table = stack.good("status")
    assert re.search(rf"pod {pod} .*{seen['restarts']} restart", table), table
    failed = [text[text.index("error: "):].splitlines()[0] for code, text in outcomes if code != 0]
    return f"{pod}: {len(failed)} of {len(outcomes)} asks failed, whole again after {back:.1f} s; {failed[:1]}"


def back_off_is_shown(stack):
    """A pod that dies twice in a row is shown with why, how often, and when it starts again."""
    pod = "vectorforge-0"
    def killed_again():
        pid = stack.pods()[pod]["process"]["pid"]
        if pid:
            os.kill(pid, signal.SIGKILL)
        found = stack.pods()[pod]
        if found["phase"] != "CrashLoopBackOff" or "killed by SIGKILL; starts again in" not in found["message"]:
            return False
        # It may have started again before the table is made.
        code, table = stack.run("status")
        return code == 4 and "CrashLoopBackOff" in table and "starts again in" in table
    wait_for("CrashLoopBackOff", killed_again)
    wait_for("every pod is Ready", stack.all_ready)
    return "why, how often and when it starts again"


def taken(stack):
    """What is up already, and a port that is in use, are said by name; `down` may be said twice."""
    code, text = stack.run("up", "--detach", "-f", "examples/quickstart/stack.yaml")
    assert code == 3 and re.search(r"stack quickstart is up already \(pid \d+\)", text), text
    other = Stack(stack.bin)
    other.port = stack.port
    code, text = other.run("up", "--detach", "--port", other.port, "-f", "examples/quickstart/stack.yaml")
    assert code == 1 and re.search(rf"port {stack.port} is taken by modelhub \(pid \d+\)", text), text
    assert "aistack up --port" in text, text
    code, text = other.down()
    assert code == 0 and "no stack is up" in text, text
    return "a second up, a taken port, a second down"


def supervisor(stack):
    """kill -9 of `aistack up` leaves no orphans, and the next one starts as if nothing had been."""
    text = (stack.state / "aistack/quickstart/status.json").read_text()
    pid = int(re.search(r'"supervisor":\s*{\s*"pid":\s*(\d+)', text).group(1))
    pods = [pod["process"]["pid"] for pod in stack.pods().values()]
    asking = subprocess.Popen(
        [stack.bin / "aistack", "ask", "--rag", "handbook", "Who approves travel?"], env=stack.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    os.kill(pid, signal.SIGKILL)
    said, _ = asking.communicate(timeout=900)
    if asking.returncode != 0:
        check_error(said)
    wait_for("no orphans", lambda: not any(is_alive(pod) for pod in pods))
    code, text = stack.run("status")
    assert code == 3 and "no stack is up" in text, text
    stack.up()
    assert stack.asks_well(), "what was ingested is still there"
    code, text = stack.down()
    assert code == 0 and "stopped in" in text, text
    assert not any(is_alive(pod["process"]["pid"]) for pod in stack.pods().values() if pod["process"]["pid"])
    code, text = stack.down()
    assert code == 0 and "no stack is up" in text, text
    return "no orphans, nothing lost, down twice"
