"""Small tables as parquet bytes: metrics, predictions, probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor


def encode_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows of numbers and names; a column that a row lacks is null there.

    ``step`` comes first, then the names in order: a resumed training may have
    its keys in another order.
    """
    columns = sorted({k for row in rows for k in row}, key=lambda k: (k != "step", k))
    return _encode(pa.table({c: [row.get(c) for row in rows] for c in columns}))


def encode_metrics(rows: Sequence[Mapping[str, float]]) -> bytes:
    """One row per evaluation; ``step`` is an integer, everything else a float64."""
    whole = [{**row, "step": int(row["step"])} for row in rows]
    return encode_rows(whole)


def encode_predictions(predictions: Mapping[str, Tensor]) -> bytes:
    """Long form: ``split when index class loss``, one row per example, split and moment."""
    pieces = []
    for key in sorted(k for k in predictions if k.endswith("/class")):
        split, when, _ = key.split("/")
        classes = predictions[key]
        pieces.append(
            pa.table(
                {
                    "split": pa.array([split] * len(classes)).dictionary_encode(),
                    "when": pa.array([when] * len(classes)).dictionary_encode(),
                    "index": pa.array(range(len(classes)), pa.int32()),
                    "class": pa.array(classes.int().numpy()),
                    "loss": pa.array(predictions[f"{split}/{when}/loss"].numpy()),
                }
            )
        )
    return _encode(pa.concat_tables(pieces))


def decode(data: bytes) -> list[dict[str, Any]]:
    """The rows of a table."""
    rows: list[dict[str, Any]] = _decode(data).to_pylist()
    return rows


def columns(data: bytes) -> dict[str, Any]:
    """The columns of a table as numpy arrays."""
    table = _decode(data)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def _decode(data: bytes) -> pa.Table:
    # In this thread alone: one of Arrow's that still holds the bytes when Python ends aborts it.
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def _encode(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
