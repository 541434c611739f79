"""What the benchmarks measure: models of the same shape and weights, and batches for them."""
from dataclasses import replace

import torch
from tinyrope.decoding import decode_tokens


def shrink(c, **changes):
    "The same architecture in a size for a CPU; 515 is no multiple of 64, as 50,257 is none"
    tiny = dict(vocab_size=515, dim=64, n_layers=2, n_heads=2, n_kv_heads=None, hidden_dim=None,
                seq_len=64)
    return replace(c, **tiny | changes)


def random_batch(c, batch, device):
    "Inputs and targets of a training step, each (batch, seq_len), drawn at random"
    return inputs_and_targets(torch.randint(c.vocab_size, (batch, c.seq_len + 1), device=device))


def inputs_and_targets(rows):
    "Split rows of tokens into inputs and the tokens that follow them"
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def precision_on(device):
    "The precision of matrix products on a device: bf16 on a GPU, else fp32"
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def never_eager():
    "Let a compiled function fail where it would go on uncompiled, unnoticed"
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True


@torch.no_grad()
def enlarge(model):
    "Treble the matrices of the blocks: without training, the model then does not repeat itself"
    for name, p in model.named_parameters():
        if name.startswith("blocks") and p.ndim == 2: p.mul_(3)


def decode(model, prompt, new):
    "Greedy decoding by `tinyrope.decoding.decode_tokens`: (batch, new)"
    tokens = decode_tokens(model, prompt, new, lambda logits: logits.argmax(-1))
    return torch.stack(list(tokens), 1)


def compile_decoding(model):
    "Compile what decoding calls of a model, which changes it"
    model.hidden = torch.compile(model.hidden, dynamic=True)


def llama(c, **options):
    "transformers' Llama in the shape of a tinyrope model"
    from transformers import LlamaConfig, LlamaForCausalLM
    shape = dict(vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.mlp_dim,
                 num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads,
                 num_key_value_heads=c.kv_heads, max_position_embeddings=c.seq_len)
    config = LlamaConfig(**shape, rms_norm_eps=1e-5, tie_word_embeddings=c.tied, **options)
    return LlamaForCausalLM(config)
