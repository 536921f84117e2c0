"""Writes the golden files of TinyInfer's tests from Hugging Face's implementations.

    python golden.py MODELS GOLDEN_DIR

MODELS has smollm2-135m-instruct/model.gguf and all-minilm-l6-v2/. The language model runs in float32 on the weights as
transformers dequantises them. Everything written is little endian and small: see read_golden in tests/golden.rs.
"""
import json
import pathlib
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SEQUENCES = [1536, 768]          # tokens of the teacher-forced sequences, cut from corpus.txt
TOP, SAMPLES = 6, 8              # logits kept of each position: the largest, and some fixed ones
LAYER_POSITIONS = [0, 5, 100, 767]
LAYER_COLUMNS = 32


def teacher_forced(models: pathlib.Path, out: pathlib.Path) -> None:
    folder = models / "smollm2-135m-instruct"
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    ids = tokenizer((out / "corpus.txt").read_text(), add_special_tokens=False).input_ids
    assert len(ids) >= sum(SEQUENCES), len(ids)
    columns = np.random.default_rng(3).choice(model.config.vocab_size, SAMPLES, replace=False)
    hidden_columns = np.random.default_rng(4).choice(model.config.hidden_size, LAYER_COLUMNS, replace=False)
    with open(out / "teacher_forced.bin", "wb") as f, torch.no_grad():
        np.array([len(SEQUENCES), TOP, SAMPLES], "<u4").tofile(f)
        columns.astype("<u4").tofile(f)
        start = 0
        for length in SEQUENCES:
            tokens = ids[start:start + length]
            start += length
            result = model(torch.tensor([tokens]), output_hidden_states=True)
            logits = result.logits[0]
            top = logits.topk(TOP)
            np.array([length], "<u4").tofile(f)
            np.array(tokens, "<u2").tofile(f)
            top.indices.numpy().astype("<u2").tofile(f)
            top.values.numpy().astype("<f4").tofile(f)
            logits.logsumexp(-1).numpy().astype("<f4").tofile(f)
            logits[:, columns].numpy().astype("<f4").tofile(f)
    with open(out / "layers.bin", "wb") as f:
        # hidden_states[0] is the embedding, [i] the stream after layer i; the last one is normed.
        states = result.hidden_states
        np.array([len(states), len(LAYER_POSITIONS), LAYER_COLUMNS], "<u4").tofile(f)
        np.array(LAYER_POSITIONS, "<u4").tofile(f)
        hidden_columns.astype("<u4").tofile(f)
        for state in states:
            state[0][LAYER_POSITIONS][:, hidden_columns].numpy().astype("<f4").tofile(f)


def tokens(models: pathlib.Path, out: pathlib.Path) -> None:
    texts = json.loads((out / "texts.json").read_text())
    smollm = AutoTokenizer.from_pretrained(models / "smollm2-135m-instruct", gguf_file="model.gguf")
    minilm = AutoTokenizer.from_pretrained(models / "all-minilm-l6-v2")
    golden = {
        "smollm2": [smollm(t, add_special_tokens=False).input_ids for t in texts],
        "minilm": [minilm(t, truncation=False).input_ids for t in texts],
    }
    (out / "tokens.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


def embeddings(models: pathlib.Path, out: pathlib.Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [t for t in json.loads((out / "texts.json").read_text()) if t]
    model = SentenceTransformer(str(models / "all-minilm-l6-v2"), device="cpu")
    vectors = model.encode(texts, batch_size=1, normalize_embeddings=True)
    vectors.astype("<f4").tofile(out / "embeddings.bin")


if __name__ == "__main__":
    torch.manual_seed(0)
    models, out = map(pathlib.Path, sys.argv[1:3])
    tokens(models, out)
    embeddings(models, out)
    teacher_forced(models, out)
    print("wrote", sum(p.stat().st_size for p in out.iterdir()), "bytes to", out)
