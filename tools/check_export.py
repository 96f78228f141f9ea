"""Does transformers compute from an exported model what we do? python tools/check_export.py DIR --logits FILE

DIR is a Hugging Face folder (config.json, model.safetensors, tokenizer files), FILE what our binary wrote:
{"ids": [...], "logits": [[...], ...]}, one row of logits per id, the ids one sequence at positions 0, 1, 2, …
Both are loaded with the Auto classes, as a user would; the model runs in f32 with eager attention, whatever the dtype
of the file. Prints the largest relative difference, |ours − theirs| ÷ the largest |theirs| of the row, with its place.
Exit status: 0 alike, 1 not. For use by hand: no test needs Python.
"""

import argparse
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir", help="the exported folder")
    parser.add_argument("--logits", type=pathlib.Path, required=True, help="JSON with ids and our logits")
    parser.add_argument("--limit", type=float, default=LIMIT, help="largest relative difference allowed (default %(default)s)")
    args = parser.parse_args()

    # Without this file transformers makes up a tokenizer of the special tokens alone, and says nothing.
    if not (pathlib.Path(args.dir) / "tokenizer.json").is_file():
        sys.exit(f"{args.dir} has no tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(args.dir)
    model, report = AutoModelForCausalLM.from_pretrained(
        args.dir, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    # A name that does not match is only a warning of transformers, and the weight stays random: an error here.
    left = {kind: sorted(names) for kind, names in report.items() if names}
    if left:
        sys.exit(f"weights and model do not match: {left}")

    given = json.loads(args.logits.read_text())
    ids, ours = given["ids"], torch.tensor(given["logits"])
    expected = (len(ids), model.config.vocab_size)
    if not ids or tuple(ours.shape) != expected:
        sys.exit(f"`logits` must be ids × vocab = {expected}, got {tuple(ours.shape)}")
    with torch.no_grad():
        theirs = model.eval()(torch.tensor([ids])).logits[0]
    relative = (ours - theirs).abs() / theirs.abs().amax(dim=-1, keepdim=True)
    # A NaN must not pass a comparison.
    worst = relative.nan_to_num(nan=float("inf"))
    row, column = divmod(worst.argmax().item(), expected[1])
    agree = (ours.argmax(-1) == theirs.argmax(-1)).sum().item()
    print(f"model      {type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters")
    sizes = f"{len(tokenizer)} tokens for a vocabulary of {expected[1]}"
    print(f"tokenizer  {type(tokenizer).__name__}, {sizes}; these ids read {tokenizer.decode(ids)[:80]!r}")
    print(f"best token the same in {agree} of {len(ids)} rows")
    print(
        f"largest relative difference {worst[row, column]:.2e} at token {row}, vocabulary entry {column}: "
        f"ours {ours[row, column]:.6f}, theirs {theirs[row, column]:.6f} (limit {args.limit:.0e})"
    )
    return 0 if worst[row, column] <= args.limit else 1


if __name__ == "__main__":
    sys.exit(main())
