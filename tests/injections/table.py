#!/usr/bin/env python3
"""What a judge makes of hostile responses: `table.py SCORES.jsonl`, the output of `judge` on corpus.jsonl; by kind."""
import json
import pathlib
import sys

corpus = pathlib.Path(__file__).with_name("corpus.jsonl")
kinds = {row["id"]: row["kind"] for row in map(json.loads, corpus.open())}
found = {}
for row in map(json.loads, open(sys.argv[1])):
    votes = row["votes"]
    scores = [vote["score"] for vote in votes if vote["score"] is not None]
    found.setdefault(kinds[row["id"]], []).append((len(votes), scores))
print("| kind | responses | failed votes | mean score | highest mean of a response |")
print("|---|---|---|---|---|")
for kind, rows in found.items():
    votes, scores = sum(n for n, _ in rows), [score for _, scores in rows for score in scores]
    means = [sum(scores) / len(scores) for _, scores in rows if scores]
    mean = f"{sum(scores) / len(scores):.1f}" if scores else "–"
    highest = f"{max(means):.1f}" if means else "–"
    print(f"| {kind} | {len(rows)} | {100 * (1 - len(scores) / max(votes, 1)):.0f} % | {mean} | {highest} |")
