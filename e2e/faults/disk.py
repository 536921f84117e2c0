"""A state folder on a disk that fills up."""
import os
import subprocess
import tempfile
from pathlib import Path

from stack import Stack, check_error, wait_for

MIB = 96


def full(bin_folder):
    """Writes are refused with a sentence, what was acknowledged stays, and with room again all goes on."""
    folder = Path(tempfile.mkdtemp(prefix="aistack-full-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        folder.rmdir()
        return "not run: mounting a tmpfs needs root"
    stack = Stack(bin_folder, folder)
    try:
        stack.up("--traces")
        code, text = stack.ingest()
        assert code == 0, text
        ballast = folder / "ballast"
        fill(ballast)
        before = stack.restarts()
        many = Path(tempfile.mkdtemp(prefix="aistack-many-"))
        for number in range(10):
            (many / f"{number}.md").write_text(f"# Note {number}\n\n" + f"Shelf {number} holds the spare part {number}. " * 10)
        code, refused = stack.ingest(many, "notes")
        assert code != 0, f"a full disk took everything:\n{refused}"
        check_error(refused)
        assert "no space" in refused.lower() or "full" in refused.lower(), refused
        code, asked = stack.ask()
        assert code == 0 or "error: " in asked, asked
        assert stack.run("status")[0] in (0, 4)
        ballast.unlink()
        wait_for("every pod is Ready with room again", stack.all_ready)
        wait_for("asks work with room again", stack.asks_well)
        wait_for("ingesting works with room again", lambda: stack.ingest(many, "notes")[0] == 0)
        answered = "answered" if code == 0 else "refused with a sentence"
        again = {name: count - before[name] for name, count in stack.restarts().items() if count != before[name]}
        first = next(line for line in refused.splitlines() if "space" in line.lower()).strip()
        return f"{first}; an ask meanwhile was {answered}; restarts: {again or 'none'}"
    finally:
        stack.down("--purge", "--stack", "quickstart")
        subprocess.run(["umount", "-l", folder], check=False)
        folder.rmdir()


def fill(path):
    """Takes every byte that is left."""
    with open(path, "wb") as file:
        piece = b"\0" * (1 << 20)
        while piece:
            try:
                os.write(file.fileno(), piece)
            except OSError:
                piece = piece[: len(piece) // 2]
