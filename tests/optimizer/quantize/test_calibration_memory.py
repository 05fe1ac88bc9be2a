"""The peak of a process that calibrates, for few rows and for many: it is the operating system that measures."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from onnx import TensorProto, helper, numpy_helper, save_model

from enginehouse.dtype import Array

SHAPE = (3, 224, 224)

CALIBRATION = """
import json, resource, sys
from pathlib import Path
from optimizer.data.dataset import DataSet
from optimizer.graph.graph import load_graph
from optimizer.quantize.calibration import calibrate

folder, name = Path(sys.argv[1]), sys.argv[2]
graph = load_graph(folder / "net.onnx")
data = DataSet([folder / name], graph.inputs, graph.batch_axis_open, 0)
read = lambda: (batch.feeds for batch in data.batches("calibration", 8))
table = calibrate(graph, ("x", "a", "b", "c", "d", "y"), read, data.rows["calibration"], folder,
                  histograms=True, state=folder / f"{name}.state", threads=1)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rows": table.rows, "peak": peak, "counted": int(table.observations["x"].counts.sum())}))
"""


def save_net(path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((8, 3, 3, 3)) / 5, "v": random.standard_normal((16, 8, 3, 3)) / 8}
    weights["u"] = random.standard_normal((16, 10)) / 4
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["f"]),
        helper.make_node("MatMul", ["f", "u"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def save_rows(path: Path, rows: int) -> None:
    """Each row louder than the one before, so that no range settles and every row is read; they compress well."""
    pattern = np.tile(np.random.default_rng(0).random((3, 8, 8)).astype(np.float32), (1, 28, 28))
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("calibration/x.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *SHAPE)}
        npy.write_array_header_2_0(member, header)
        for row in range(rows):
            loud: Array = pattern * np.float32(1 + row)
            member.write(loud.tobytes())


def calibrated(folder: Path, rows: int) -> dict[str, int]:
    save_rows(folder / f"{rows}.npz", rows)
    command = [sys.executable, "-c", CALIBRATION, str(folder), f"{rows}.npz"]
    done = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_two_thousand_images_take_no_more_memory_than_two_hundred(tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx")
    few, many = calibrated(tmp_path, 200), calibrated(tmp_path, 2000)
    assert (few["rows"], many["rows"]) == (200, 2000)
    assert many["counted"] >= few["counted"]
    assert many["peak"] <= 1.1 * few["peak"], f"{many['peak']} kB against {few['peak']} kB"
