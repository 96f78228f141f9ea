"""Writes tests/goldens/parquet: the same rows as JSON lines and as Parquet files of every codec, page version and encoding.

Needs pyarrow. The JSON is what the reader must make of each file.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path(__file__).parent.parent / "tests/goldens/parquet"


def turn(role, content):
    return {"content": content, "role": role}


def row(index):
    question, good, bad = f"Question {index}: what is {index} + 1? é", f"It is {index + 1}.", f"It is {index}."
    return {
        "id": index if index % 3 else None,
        "chosen": [turn("user", question), turn("assistant", good)],
        "rejected": [turn("user", question), turn("assistant", bad)],
        "source": [None, "made", "by hand", ""][index % 4],
        "score": [0.1, None, 8.5, -3.0][index % 4],
        "single": [0.1, 2.0, None, 1e-3][index % 4],
        "sure": [True, False, None][index % 3],
        "count": 2**40 + index,
        "tags": [[], None, ["a"], ["a", None, "b" * index]][index % 4],
        "grid": [[[1, 2], []], None, [], [[index], None, [3, None]]][index % 4],
        "meta": [
            None,
            {"note": None, "levels": {"a": 1, "b": None}},
            {"note": "n", "levels": None},
            {"note": "", "levels": {}},
        ][index % 4],
    }


SCHEMA = pa.schema([
    ("id", pa.int64()),
    ("chosen", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
    ("rejected", pa.large_list(pa.struct([("content", pa.large_string()), ("role", pa.string())]))),
    ("source", pa.string()),
    ("score", pa.float64()),
    ("single", pa.float32()),
    ("sure", pa.bool_()),
    ("count", pa.uint64()),
    ("tags", pa.list_(pa.string())),
    ("grid", pa.list_(pa.list_(pa.int16()))),
    ("meta", pa.struct([("note", pa.string()), ("levels", pa.map_(pa.string(), pa.int32()))])),
])

TEXTS = ["chosen.list.element.content", "rejected.list.element.content", "source"]
FILES = {
    "snappy": {"compression": "snappy"},
    "zstd_v2": {"compression": "zstd", "data_page_version": "2.0"},
    "gzip_plain": {"compression": "gzip", "use_dictionary": False},
    "lz4_groups": {"compression": "lz4", "row_group_size": 3},
    "none_pages": {"compression": "none", "data_page_size": 1, "write_batch_size": 1},
    "delta": {
        "use_dictionary": False,
        "column_encoding": {
            "id": "DELTA_BINARY_PACKED",
            "score": "BYTE_STREAM_SPLIT",
            TEXTS[0]: "DELTA_LENGTH_BYTE_ARRAY",
            TEXTS[1]: "DELTA_BYTE_ARRAY",
            TEXTS[2]: "DELTA_BYTE_ARRAY",
        },
    },
    "delta_v2": {
        "use_dictionary": False,
        "data_page_version": "2.0",
        "column_encoding": {"count": "DELTA_BINARY_PACKED", TEXTS[0]: "DELTA_BYTE_ARRAY"},
    },
    "old_lists": {"use_compliant_nested_type": False, "version": "1.0"},
}

rows = [row(index) for index in range(11)]
table = pa.Table.from_pylist(rows, schema=SCHEMA)
OUT.mkdir(parents=True, exist_ok=True)
for name, options in FILES.items():
    if name == "old_lists":
        # Version 1 has no uint64.
        at = SCHEMA.get_field_index("count")
        old = table.set_column(at, "count", table["count"].cast(pa.int64()))
        pq.write_table(old, OUT / f"{name}.parquet", store_schema=False, **options)
    else:
        pq.write_table(table, OUT / f"{name}.parquet", store_schema=False, **options)
(OUT / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
