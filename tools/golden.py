"""Golden numbers for the tests of the Qwen3 model, from transformers: python tools/golden.py [--out tests/goldens]

The Rust model is written by hand, so something else must say what is right. This script builds tiny Qwen3 models with
random weights, runs them in transformers with autograd, and stores what comes out. Run it again only to add a case;
the committed files are what the tests read, and no test needs Python. Packages: torch, transformers, safetensors, numpy.

A case is a folder:
    config.json, model.safetensors   a model in the Hugging Face layout, weights in f32 (cases with a model of their own)
    golden.json                      integers and scalars: token ids, masks, losses; `model` names the folder of the weights
    golden.safetensors               float arrays, f32 (rounded once, at the very end), named as below

Conventions, the same in every case:
    ids     one list per sequence; a sequence is run alone, at positions 0, 1, 2, …
    mask    one boolean per token: true where the token is a *target*. Token t is predicted by row t − 1 of the logits,
            so mask[0] is always false, and a weight in `weights` sits with its target token too.
    logits  [tokens, vocab], row t follows token t
    grad.X  the gradient of the loss by parameter X, X as in model.safetensors; a tied head has no entry of its own,
            its gradient is in grad.model.embed_tokens.weight

Precision: references are float64 throughout, from the f32 weights. `model.double()` alone is not enough, as
transformers casts to f32 inside RMSNorm and the softmax of attention; `in_float64` replaces these two functions by the
same formulas without the casts, and `main` asserts that a plain f32 run of the untouched code agrees. Rotary
embeddings stay as transformers makes them: inverse frequencies, angles (position · frequency), cosines and sines in f32,
then widened (`.double()` turns the buffer inv_freq to f64, forward turns it back, which loses nothing).
"""

import argparse
import copy
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM, modeling_rope_utils
from transformers.models.qwen3 import modeling_qwen3 as qwen3
from transformers.utils import logging

GREEDY_PROMPT, GREEDY_NEW = 6, 24
# A greedy step whose two best tokens are closer than this would make the test depend on rounding.
GREEDY_GAP_MIN = 2e-2
GREEDY_DISTINCT_MIN = 8


# ---------------------------------------------------------------------------------------------------------------------
# transformers in float64


def rmsnorm_forward(self, x):
    """Qwen3RMSNorm.forward without its cast to f32."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """eager_attention_forward with the softmax in the dtype of the scores."""
    key = qwen3.repeat_kv(key, module.num_key_value_groups)
    value = qwen3.repeat_kv(value, module.num_key_value_groups)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling + attention_mask
    probabilities = F.softmax(scores, dim=-1)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


def in_float64():
    """From here on Qwen3 models compute in the dtype of their weights."""
    qwen3.Qwen3RMSNorm.forward = rmsnorm_forward
    qwen3.eager_attention_forward = attention_forward


# ---------------------------------------------------------------------------------------------------------------------
# models


def tied_config():
    # head_dim is not hidden ÷ heads, and one that every backend has; few sizes are equal, so that a swapped one shows.
    return Qwen3Config(
        vocab_size=96, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        intermediate_size=32, tie_word_embeddings=True, max_position_embeddings=64, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=None, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip


def untied_config():
    # Five query heads on one kv head, a rotary base and an epsilon other than Qwen3's, sizes no multiple of 16.
    return Qwen3Config(
        vocab_size=104, hidden_size=40, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=1, head_dim=32,
        intermediate_size=32, tie_word_embeddings=False, max_position_embeddings=64, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, bos_token_id=None, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip


def randomise(model, seed):
    """Weights wide enough that every part matters: matrices keep the scale of their input, norms lie in 0.5 to 1.5."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(0.5 + torch.rand(p.shape, generator=generator))
            else:
                std = 0.35 if "embed" in name or "lm_head" in name else p.shape[1] ** -0.5
                p.copy_(std * torch.randn(p.shape, generator=generator))


def build(config, seed):
    """An f32 model, and the same weights in an f64 one."""
    config._attn_implementation = "eager"
    model = Qwen3ForCausalLM(config).eval()
    randomise(model, seed)
    double = Qwen3ForCausalLM(config).eval()
    double.load_state_dict(model.state_dict())
    return model, double.double()


def save_model(model, folder):
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# pieces


def random_ids(length, vocab, generator):
    return torch.randint(2, vocab, (length,), generator=generator).tolist()


def logits_of(model, ids):
    """[tokens, vocab]"""
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def target_losses(logits, ids):
    """[tokens − 1]: the cross-entropy of token t + 1 by row t."""
    return F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {f"grad.{name}": p.grad for name, p in model.named_parameters()}


def store(folder, scalars, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "golden.json").write_text(to_json(scalars) + "\n")
    tensors = {k: v.detach().to(torch.float32).contiguous().clone() for k, v in tensors.items()}
    assert all(torch.isfinite(v).all() for v in tensors.values())
    save_file(tensors, folder / "golden.safetensors")


def to_json(value, indent=""):
    """JSON with one line for each list of numbers: a diff of it can be read."""
    inner = indent + "  "
    if isinstance(value, dict):
        rows = [f"{inner}{json.dumps(k)}: {to_json(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        return "[\n" + ",\n".join(inner + to_json(v, inner) for v in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


# ---------------------------------------------------------------------------------------------------------------------
# cases


def greedy(model, prompt, new):
    """Tokens by argmax of f64 logits, the whole sequence run again for each; their log-probabilities and top-2 gaps."""
    ids, logprobs, gaps = list(prompt), [], []
    with torch.no_grad():
        for _ in range(new):
            row = logits_of(model, ids)[-1]
            best = row.topk(2)
            ids.append(best.indices[0].item())
            logprobs.append(F.log_softmax(row, -1).max().item())
            gaps.append((best.values[0] - best.values[1]).item())
    return ids[len(prompt) :], logprobs, gaps


def greedy_case(model):
    """The first prompt whose tokens vary and are never nearly tied."""
    for seed in range(1000):
        prompt = random_ids(GREEDY_PROMPT, model.config.vocab_size, torch.Generator().manual_seed(seed))
        tokens, logprobs, gaps = greedy(model, prompt, GREEDY_NEW)
        if min(gaps) > GREEDY_GAP_MIN and len(set(tokens)) >= GREEDY_DISTINCT_MIN:
            return {
                "how": "argmax of the logits, no stop at eos; logprobs at temperature 1; gaps: best minus second-best logit",
                "prompt": prompt, "tokens": tokens, "logprobs": logprobs, "gaps": gaps, "gap_min": min(gaps),
            }  # fmt: skip
    raise SystemExit("no prompt gives clear greedy tokens: choose another seed for the weights")


def single_case(model, folder, seed):
    """One sequence, the mean cross-entropy of its next tokens; and greedy generation."""
    ids = random_ids(21, model.config.vocab_size, torch.Generator().manual_seed(seed))
    logits = logits_of(model, ids)
    losses = target_losses(logits, ids)
    tensors = {"logits": logits, "target_losses": losses} | gradients(model, losses.mean())
    scalars = {
        "model": ".",
        "how": "f64 from f32 weights; loss = mean over the 20 next tokens; target_losses[t] is of token t + 1; "
        "rope: rows are positions 0 to 31, head_dim/2 cosines then head_dim/2 sines, f32 as transformers makes them",
        "ids": ids,
        "loss": losses.mean().item(),
        "greedy": greedy_case(model),
    }
    tensors["rope"] = rope_table(model, range(32))
    store(folder, scalars, tensors)


def rope_table(model, positions):
    """[positions, head_dim]: cosines of the head_dim/2 frequencies, then their sines."""
    cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.float32), torch.tensor([list(positions)]))
    half = model.config.head_dim // 2
    return torch.cat([cos[0, :, :half], sin[0, :, :half]], dim=-1)


def packed_batch(vocab):
    """Three sequences of different lengths, and which of their tokens are targets."""
    generator = torch.Generator().manual_seed(31)
    sequences = [random_ids(n, vocab, generator) for n in (5, 17, 9)]
    masks = [[t > 0 and torch.rand((), generator=generator).item() < 0.6 for t in range(len(s))] for s in sequences]
    masks[0][-1] = masks[2][1] = True  # a target right at the end of a sequence, and one right after its beginning
    return sequences, masks


def packed_loss(model, sequences, masks):
    """Σ over the sequences of the cross-entropy at targets ÷ the number of targets of all; and the logits of each."""
    logits = [logits_of(model, ids) for ids in sequences]
    total = sum((target_losses(z, ids) * torch.tensor(m[1:])).sum() for z, ids, m in zip(logits, sequences, masks))
    return total / sum(map(sum, masks)), logits


def packed_case(model, folder):
    sequences, masks = packed_batch(model.config.vocab_size)
    loss, logits = packed_loss(model, sequences, masks)
    tensors = {f"logits.{i}": z for i, z in enumerate(logits)} | gradients(model, loss)
    scalars = {
        "model": "../tied_gqa2",
        "how": "each sequence run alone; loss = sum of the cross-entropy of tokens with mask true, of all sequences, ÷ targets",
        "ids": sequences,
        "mask": masks,
        "targets": sum(map(sum, masks)),
        "loss": loss.item(),
        "adamw": adamw_steps(model, sequences, masks, steps=10),
    }
    store(folder, scalars, tensors)


def adamw_steps(model, sequences, masks, steps):
    """Ten optimizer steps on the packed batch, in f64. Changes the model: the last thing to do with it."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    settings = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings["learning_rate"], betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"],
    )  # fmt: skip
    losses, norms = [], []
    for _ in range(steps):
        loss, _ = packed_loss(model, sequences, masks)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"]).item())
        losses.append(loss.item())
        optimizer.step()
    return {
        "how": "losses[i], grad_norms[i] are before step i + 1, the norm before clipping; gradients are multiplied by "
        "min(1, clip_norm / (norm + 1e-6)) as in torch.nn.utils.clip_grad_norm_; weight decay on matrices only "
        "(embeddings included, norm weights not); moments and master weights in f64",
        **settings,
        "losses": losses,
        "grad_norms": norms,
        "loss_after": packed_loss(model, sequences, masks)[0].item(),
    }


def shared_prefix_case(model, folder):
    """One prompt and three continuations; loss on the continuations only, weighted by tokens as advantages would."""
    generator = torch.Generator().manual_seed(41)
    vocab, denominator = model.config.vocab_size, 16.0
    prompt = random_ids(11, vocab, generator)
    continuations = [random_ids(n, vocab, generator) for n in (4, 7, 1)]
    # Quarters: exact in f32. Different for every token, both signs.
    weights = [[round(8 * torch.randn((), generator=generator).item()) / 4 for _ in c] for c in continuations]
    weights[2] = [-1.75]
    total, tensors = 0.0, {}
    for i, (continuation, weight) in enumerate(zip(continuations, weights)):
        ids = prompt + continuation
        logits = logits_of(model, ids)
        losses = target_losses(logits, ids)[len(prompt) - 1 :]
        total = total + (losses * torch.tensor(weight, dtype=torch.float64)).sum()
        tensors[f"logits.{i}"] = logits[len(prompt) - 1 :]
        tensors[f"target_losses.{i}"] = losses
    loss = total / denominator
    scalars = {
        "model": "../tied_gqa2",
        "how": "each prompt + continuation run alone; loss = sum of weight · cross-entropy of continuation tokens ÷ denominator; "
        "logits.i [len + 1, vocab] begins with the row of the last prompt token, so row j predicts continuation token j; "
        "target_losses.i [len] is the cross-entropy of each continuation token, unweighted",
        "prompt": prompt,
        "continuations": continuations,
        "weights": weights,
        "denominator": denominator,
        "loss": loss.item(),
    }
    store(folder, scalars, tensors | gradients(model, loss))


def grpo_loss_case(folder):
    """The clipped policy-gradient loss alone, on twelve rows of a small head; see GrpoLoss for the formula."""
    rows, vocab, hidden_size = 12, 96, 16
    clip_low, clip_high, kl_coefficient = 0.2, 0.28, 0.05
    generator = torch.Generator().manual_seed(51)
    hidden = torch.randn(rows, hidden_size, generator=generator)
    weight = 0.4 * torch.randn(vocab, hidden_size, generator=generator)
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    # Ratios below, inside and above 0.8 to 1.28, each with an advantage of either sign, and an advantage of zero.
    ratios = torch.tensor([0.5, 0.5, 0.77, 0.83, 0.95, 1.0, 1.05, 1.24, 1.32, 1.32, 2.0, 2.0])
    advantage = torch.tensor([1.5, -1.25, -0.5, 0.75, -2.0, 1.0, 0.0, 1.75, 0.5, -0.75, 1.25, -1.0])
    row_weight = torch.tensor([0.125, 0.25, 0.125, 0.5, 0.0625, 0.125, 0.25, 0.125, 0.375, 0.25, 0.125, 0.1875])
    drift = 0.6 * torch.randn(rows, generator=generator)
    tensors = {"hidden": hidden, "weight": weight, "advantage": advantage, "row_weight": row_weight}
    scalars = {
        "how": "loss = −min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A) + kl_coefficient·KL per row, "
        "r = exp(logprob − old_logprob), logprob = log_softmax(hidden·weightᵀ / temperature)[target]; "
        "d = ref_logprob − logprob: k1 = −d, k2 = d²/2, k3 = e^d − d − 1; "
        "total = Σ row_weight · loss; d_hidden, d_weight are of the total, and d_logprob[i] of loss[i] alone by logprob[i]; "
        "entropy of softmax(logits / temperature) in nats; clipped: rows that get no gradient through the ratio",
        "rows": rows, "vocab": vocab, "hidden": hidden_size,
        "clip_low": clip_low, "clip_high": clip_high, "kl_coefficient": kl_coefficient,
        "targets": targets.tolist(),
    }  # fmt: skip
    wide = [x.double().requires_grad_() for x in (hidden, weight)]
    for temperature in (0.7, 1.0):
        t = f"t{temperature}"
        logps = F.log_softmax(wide[0] @ wide[1].T / temperature, -1)
        logprob = logps.gather(1, targets[:, None])[:, 0]
        # Inputs of the test are f32, and the reference reads what the test reads: round first, then compute.
        old = (logprob.detach() - ratios.double().log()).float()
        ref = (logprob.detach() + drift.double()).float()
        tensors |= {f"{t}.old_logprob": old, f"{t}.ref_logprob": ref, f"{t}.logprob": logprob}
        tensors[f"{t}.entropy"] = -(logps.exp() * logps).sum(-1)
        ratio, a = (logprob - old.double()).exp(), advantage.double()
        plain, capped = ratio * a, ratio.clamp(1 - clip_low, 1 + clip_high) * a
        scalars[f"{t}.clipped"] = (plain > capped).tolist()
        d = ref.double() - logprob
        for name, kl in {"k1": -d, "k2": d * d / 2, "k3": d.exp() - d - 1}.items():
            loss = -torch.minimum(plain, capped) + kl_coefficient * kl
            total = (row_weight.double() * loss).sum()
            d_hidden, d_weight = torch.autograd.grad(total, wide, retain_graph=True)
            (d_logprob,) = torch.autograd.grad(loss.sum(), logprob, retain_graph=True)
            v = f"{t}_{name}"
            tensors |= {f"{v}.loss": loss, f"{v}.d_logprob": d_logprob, f"{v}.d_hidden": d_hidden, f"{v}.d_weight": d_weight}
            scalars[f"{v}.total"] = total.item()
    store(folder, scalars, tensors)


def rope_case(folder):
    """The rotary table of the released Qwen3 models, at positions near and far."""
    positions = [0, 1, 2, 3, 31, 100, 1000, 4095, 8191, 32767, 40959]
    config = Qwen3Config(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
                         head_dim=128, intermediate_size=16, max_position_embeddings=40960,
                         rope_parameters={"rope_type": "default", "rope_theta": 1e6})  # fmt: skip
    model = Qwen3ForCausalLM(config)
    scalars = {
        "how": "f32 throughout, as transformers: inv_freq = 1 / theta^(2i/head_dim), angle = position · inv_freq, cos, sin; "
        "a row of `rope` holds head_dim/2 cosines, then head_dim/2 sines",
        "theta": 1e6, "head_dim": 128, "positions": positions,
    }  # fmt: skip
    store(folder, scalars, {"inv_freq": model.model.rotary_emb.inv_freq, "rope": rope_table(model, positions)})


# Beside the keys of `scaled_config`: what a config.json may say of RoPE, in every spelling and type that is computed.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE_CASES = {
    "none": {},
    "theta": {"rope_theta": 1e6},
    "parameters": {"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}},
    "no_head_dim": {"rope_theta": 1e6, "head_dim": None},
    "linear": {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.5}},
    "yarn_card": {"rope_theta": 1e6, "rope_scaling": YARN},
    "yarn_parameters": {"rope_parameters": YARN | {"rope_theta": 1e6}},
    "yarn_both": {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
                  "rope_scaling": {"type": "yarn", "factor": 4.0}},
    "yarn_mscale": {"rope_theta": 1e6, "rope_scaling": YARN | {"factor": 40, "mscale": 1.0, "mscale_all_dim": 0.707}},
    "yarn_attention": {"rope_theta": 1e6, "rope_scaling": YARN | {"attention_factor": 1.25, "mscale": 2.0}},
    "yarn_betas": {"rope_theta": 1e4, "head_dim": 64,
                   "rope_scaling": YARN | {"beta_fast": 24, "beta_slow": 2.0, "truncate": False}},
    "yarn_short": {"rope_theta": 1e4, "head_dim": 32,
                   "rope_scaling": YARN | {"factor": 3.0, "original_max_position_embeddings": 16}},
    "yarn_top_original": {"rope_theta": 1e6, "original_max_position_embeddings": 8192,
                          "rope_scaling": {"rope_type": "yarn", "factor": None}},
    "llama3": {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 8192}},
}  # fmt: skip


def scaled_config(keys):
    """A config.json with these keys; None for a key of the base leaves that out."""
    base = {"model_type": "qwen3", "vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
            "num_key_value_heads": 1, "head_dim": 128, "intermediate_size": 16, "max_position_embeddings": 40960}  # fmt: skip
    # transformers fills in the dictionaries that it is given.
    return copy.deepcopy({key: value for key, value in (base | keys).items() if value is not None})


class TorchInFloat64:
    """torch for modeling_rope_utils, with f64 wherever it asks for f32."""

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)

    def arange(self, *args, dtype=None, **kwargs):
        return torch.arange(*args, dtype=dtype or torch.float64, **kwargs)


def inverse_frequencies(config):
    """inv_freq as a list of f64, and the attention factor, by transformers' own functions."""
    scaled = config.rope_parameters["rope_type"]
    compute = qwen3.Qwen3RotaryEmbedding.compute_default_rope_parameters
    module = qwen3 if scaled == "default" else modeling_rope_utils
    compute = compute if scaled == "default" else modeling_rope_utils.ROPE_INIT_FUNCTIONS[scaled]
    module.torch, kept = TorchInFloat64(), torch
    try:
        inv_freq, attention_factor = compute(config)
    finally:
        module.torch = kept
    assert inv_freq.dtype == torch.float64
    return inv_freq.tolist(), attention_factor


def scaled_rope_case(folder):
    """Frequencies in f64 and tables in f32, for every way of writing RoPE down, at positions beyond the native context."""
    positions = [0, 1, 2, 7, 100, 4097, 32768, 40961, 65537, 131071]
    cases, tensors = {}, {}
    for name, keys in ROPE_CASES.items():
        config = Qwen3Config.from_dict(scaled_config(keys))
        model = Qwen3ForCausalLM(config)
        inv_freq, attention_factor = inverse_frequencies(config)
        plain = model.model.rotary_emb.inv_freq.double()
        assert ((torch.tensor(inv_freq) - plain).abs() <= 1e-4 * plain).all(), name
        cases[name] = {"config": scaled_config(keys), "inv_freq": inv_freq, "attention_factor": attention_factor}
        tensors[f"rope.{name}"] = rope_table(model, positions)
        tensors[f"inv_freq.{name}"] = plain
    scalars = {
        "how": "inv_freq (f64) and attention_factor of transformers' modeling_rope_utils for `config`; in golden.safetensors "
        "inv_freq and `rope` (cosines, then sines, times the attention factor) as transformers makes them in f32",
        "positions": positions,
        "cases": cases,
    }
    store(folder, scalars, tensors)


# A whole model for each: config.json as transformers never writes it, read by transformers from the folder.
MODEL_CASES = {
    "rope_yarn": {"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}},
    "rope_parameters": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 2e4, "factor": 2.0, "attention_factor": 1.3,
                                            "original_max_position_embeddings": 16}},
    "default_head_dim": {"head_dim": None, "rope_theta": 1e5},
    "tied_other_head": {"tie_word_embeddings": True},
}  # fmt: skip


def build_case(name, out, seed):
    """A model that transformers reads from a config.json with these keys and f32 weights; ids, and its untouched logits."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    base = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "head_dim": 32, "intermediate_size": 24,
            "max_position_embeddings": 64, "architectures": ["Qwen3ForCausalLM"], "torch_dtype": "float32"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(scaled_config(base | MODEL_CASES[name]), indent=2) + "\n")
    config = AutoConfig.from_pretrained(folder)
    # With a head of its own, which the file then holds whatever config.json says.
    config.tie_word_embeddings = False
    model = Qwen3ForCausalLM(config)
    randomise(model, seed)
    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    assert model.lm_head.weight is not model.model.embed_tokens.weight, f"{name}: the head of the file is not used"
    ids = random_ids(41, config.vocab_size, torch.Generator().manual_seed(seed))
    return model, ids, logits_of(model, ids)


def model_case(name, folder, model, ids, untouched):
    """Logits, losses and gradients in f64."""
    model = model.double()
    logits = logits_of(model, ids)
    difference = (logits - untouched).abs().max().item()
    assert difference < 1e-4, f"{name}: f64 model and untouched f32 model differ by {difference}"
    losses = target_losses(logits, ids)
    scalars = {
        "model": ".",
        "how": "a config.json as others write it, read by transformers from this folder; 41 tokens; "
        "f64 from f32 weights; loss = mean over the 40 next tokens",
        "ids": ids,
        "loss": losses.mean().item(),
    }
    store(folder, scalars, {"logits": logits, "target_losses": losses} | gradients(model, losses.mean()))
    print(f"{name}: f64 against untouched f32, maximum difference of logits {difference:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "tests" / "goldens")
    out = parser.parse_args().out
    # One thread: sums in one order, so that a second run writes the same bits.
    torch.set_num_threads(1)
    logging.disable_progress_bar()

    built = {"tied_gqa2": build(tied_config(), seed=2), "untied_gqa5": build(untied_config(), seed=1)}
    probe = [7 * t % 96 for t in range(24)]
    untouched = {name: logits_of(model, probe) for name, (model, _) in built.items()}
    cases = {name: build_case(name, out, seed) for seed, name in enumerate(MODEL_CASES, start=61)}
    in_float64()
    for name, (model, double) in built.items():
        # The replaced functions compute what the untouched ones do: f32 and f64 differ by rounding only.
        difference = (logits_of(double, probe) - untouched[name]).abs().max().item()
        assert difference < 1e-4, f"{name}: f64 model and untouched f32 model differ by {difference}"
        save_model(model, out / name)
        single_case(double, out / name, seed=21)
        print(f"{name}: f64 against untouched f32, maximum difference of logits {difference:.1e}")
    tied = built["tied_gqa2"][1]
    shared_prefix_case(tied, out / "shared_prefix")
    packed_case(tied, out / "packed")
    grpo_loss_case(out / "grpo_loss")
    rope_case(out / "rope")
    scaled_rope_case(out / "rope_scaling")
    for name, case in cases.items():
        model_case(name, out / name, *case)
    sizes = {p.relative_to(out): p.stat().st_size for p in sorted(out.rglob("*.*")) if p.is_file()}
    print("\n".join(f"{size:8} {path}" for path, size in sizes.items()), f"\n{sum(sizes.values()):8} bytes in all")


if __name__ == "__main__":
    main()
