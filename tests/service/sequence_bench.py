"""A model that adds up the requests of each sequence, on a bench."""

from typing import Any

from enginehouse.dtype import DTYPES
from enginehouse.tensor import Tensors, TensorSpec
from service.request import InferRequest, SequencePosition
from tests.service.conftest import Bench, X, Y, make_bench, make_request

START = TensorSpec("start", DTYPES["FP32"], (-1, 1))
READY = TensorSpec("ready", DTYPES["INT32"], (-1, 1))
END = TensorSpec("end", DTYPES["BOOL"], (-1, 1))
CORRID = TensorSpec("id", DTYPES["UINT64"], (-1, 1))
SUM = TensorSpec("sum", DTYPES["FP32"], (-1, 2))
NEW_SUM = TensorSpec("new_sum", DTYPES["FP32"], (-1, 2))
INPUTS = (X, START, READY, END, CORRID, SUM)
CONTROLS = """
  control_input { name: "start" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
  control_input { name: "ready" control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }
  control_input { name: "end" control { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } }
  control_input { name: "id" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
  state { input_name: "sum" output_name: "new_sum" data_type: TYPE_FP32 dims: [ 2 ] }
"""
OLDEST = "oldest { max_candidate_sequences: 4 }"


def config(strategy: str = "direct { }", rows: int = 2, rest: str = "", instances: int = 1) -> str:
    return (
        f"max_batch_size: {rows} instance_group {{ count: {instances} }} "
        f'output {{ name: "y" data_type: TYPE_FP32 dims: 2 }} sequence_batching {{ {strategy} {CONTROLS} {rest} }}'
    )


def accumulate(feeds: Tensors) -> Tensors:
    total = feeds["x"] + feeds["sum"]
    return {"y": total, "new_sum": total}


def make_accumulator(text: str | None = None, **fields: Any) -> Bench:
    return make_bench(text or config(), accumulate, INPUTS, (Y, NEW_SUM), **fields)


def step(sequence: int | str, value: float, flags: str = "", **fields: Any) -> InferRequest:
    """A request of a sequence; `s` in the flags starts it and `e` ends it."""
    position = SequencePosition(sequence, "s" in flags, "e" in flags)
    return make_request([value], sequence=position, **fields)


def column(feeds: Tensors, name: str) -> list[float]:
    values: list[float] = feeds[name][:, 0].tolist()
    return values
