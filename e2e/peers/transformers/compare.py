"""Whole rows of logits against transformers, teacher-forced: python compare.py MODEL_FOLDER CORPUS.txt DUMP_LOGITS_BINARY

What the golden files sample, here in full: every logit of 2,304 positions (two sequences). Fails when a bar is missed.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SEQUENCES = [1536, 768]


def main() -> None:
    folder, corpus, binary = sys.argv[1:4]
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    ids = tokenizer(pathlib.Path(corpus).read_text(), add_special_tokens=False).input_ids
    difference = size = kl = 0.0
    agree = positions = start = 0
    for length in SEQUENCES:
        tokens = ids[start:start + length]
        start += length
        with torch.no_grad():
            theirs = model(torch.tensor([tokens])).logits[0].double()
        with tempfile.TemporaryDirectory() as temporary:
            given, got = f"{temporary}/tokens", f"{temporary}/logits"
            np.array(tokens, "<u4").tofile(given)
            subprocess.run([binary, f"{folder}/model.gguf", given, got], check=True)
            ours = torch.from_numpy(np.fromfile(got, "<f4").reshape(length, -1)).double()
        difference += float(((ours - theirs) ** 2).sum())
        size += float((theirs ** 2).sum())
        agree += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        p = theirs.log_softmax(-1)
        kl += float((p.exp() * (p - ours.log_softmax(-1))).sum())
        positions += length
    relative, agreement, kl = (difference / size) ** 0.5, agree / positions, kl / positions
    print(f"{positions} positions: rel-L2 {relative:.2e}, top-1 agreement {agreement:.5f}, mean KL {kl:.2e}")
    assert relative < 2e-2 and agreement >= 0.995 and kl < 1e-3


if __name__ == "__main__":
    main()
