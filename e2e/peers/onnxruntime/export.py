"""Exports the encoder of all-MiniLM-L6-v2 to ONNX in float32: python export.py MODEL_FOLDER OUT.onnx  (venv of ../transformers)."""
import sys

import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], attn_implementation="eager").eval()


class Encoder(torch.nn.Module):
    """Token ids to token vectors, mask all ones: what one text needs."""

    def __init__(self):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


ids = torch.randint(1000, 20000, (1, 128))
axes = {"input_ids": {0: "batch", 1: "tokens"}, "attention_mask": {0: "batch", 1: "tokens"}, "vectors": {0: "batch", 1: "tokens"}}
torch.onnx.export(Encoder(), (ids, torch.ones_like(ids)), sys.argv[2], input_names=["input_ids", "attention_mask"],
                  output_names=["vectors"], dynamic_axes=axes, opset_version=17, dynamo=False)
