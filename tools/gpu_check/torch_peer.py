"""Qwen3-0.6B in PyTorch on the same device, random weights: SDPA, bf16 autocast over f32 masters, fused AdamW. One JSON line."""

import argparse
import json
import time

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

VOCAB = 151_936


def shape():
    config = Qwen3Config(vocab_size=VOCAB, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
                         head_dim=128, intermediate_size=3072, tie_word_embeddings=True)  # fmt: skip
    config._attn_implementation = "sdpa"
    return config


def ids(batch, length):
    return torch.randint(0, VOCAB, (batch, length), device="cuda")


def train(a):
    model = Qwen3ForCausalLM(shape()).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if a.compile else model
    tokens = ids(a.batch, a.length)

    def run():
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run, a.batch * a.length


def generator(model, a):
    model.generation_config.eos_token_id = None

    def generate(prompts):
        return model.generate(prompts, max_new_tokens=a.new, min_new_tokens=a.new, do_sample=True, top_k=0, pad_token_id=0)

    return generate


def decode(a):
    model = Qwen3ForCausalLM(shape()).to("cuda", torch.bfloat16).eval()
    generate, prompts = generator(model, a), ids(a.batch, a.prompt)
    return lambda: generate(prompts), a.batch * a.new


def rl(a):
    """Rollouts, reference log-probabilities, and one GRPO update with k3 KL; the policy's rollouts run on a bf16 copy."""
    model = Qwen3ForCausalLM(shape()).to("cuda")
    rollout = Qwen3ForCausalLM(shape()).to("cuda", torch.bfloat16).eval()
    reference = Qwen3ForCausalLM(shape()).to("cuda", torch.bfloat16).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    generate, prompts = generator(rollout, a), ids(a.prompts, a.prompt)
    total = a.prompts * a.generations * a.new

    def logprobs(net, tokens):
        logits = net(tokens[:, :-1], logits_to_keep=a.new).logits.float()
        return torch.gather(logits.log_softmax(-1), 2, tokens[:, -a.new :, None])[..., 0]

    def run():
        with torch.no_grad():
            for copy, master in zip(rollout.parameters(), model.parameters()):
                copy.copy_(master)
            each = prompts.repeat_interleave(a.generations, 0)
            sequences = torch.cat([generate(part) for part in each.split(128)])
        for tokens in sequences.split(8):
            with torch.no_grad():
                fixed = logprobs(reference, tokens)
            with torch.autocast("cuda", torch.bfloat16):
                own = logprobs(model, tokens)
            d = fixed - own
            advantage = (tokens[:, -1:] % 7).float() - 3
            loss = (-torch.exp(own - own.detach()) * advantage + 0.001 * (d.exp() - d - 1)).sum() / total
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run, total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "decode", "rl"])
    for name, value in [("batch", 8), ("length", 1024), ("prompt", 256), ("new", 128), ("prompts", 16), ("generations", 8)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    a = parser.parse_args()
    torch.manual_seed(0)
    run, tokens = {"train": train, "decode": decode, "rl": rl}[a.what](a)
    times = []
    # One run that is not timed; an RL step is long, and one says enough.
    for turn in range(2 if a.what == "rl" else 4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times += [time.perf_counter() - start] if turn else []
    seconds = sorted(times)[len(times) // 2]
    print(json.dumps({"what": a.what, "torch": torch.__version__, "compiled": a.compile, "tokens_per_s": tokens / seconds,
                      "run_ms": 1e3 * seconds, "peak_device_bytes": torch.cuda.max_memory_allocated()}))  # fmt: skip


if __name__ == "__main__":
    main()
