"""The real `kserve` client, in a process of its own: its protos clash with `tritonclient`'s."""

import json
import subprocess
import sys

from tests.conftest import RunningService

PROGRAM = """
import asyncio, json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

async def main(http_port, grpc_port):
    found = {}
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    base = f"http://127.0.0.1:{http_port}"
    found["rest"] = [await rest.is_server_live(base), await rest.is_server_ready(base),
                     await rest.is_model_ready(base, "simple")]
    grpc = InferenceGRPCClient(url=f"127.0.0.1:{grpc_port}")
    found["grpc"] = [await grpc.is_server_live(), await grpc.is_server_ready(), await grpc.is_model_ready("simple")]
    row = np.arange(16, dtype=np.int32).reshape(1, 16)
    for form in ("rest", "grpc"):
        for binary in (True, False):
            inputs = [InferInput(f"INPUT{n}", [1, 16], "INT32") for n in (0, 1)]
            for tensor in inputs:
                tensor.set_data_from_numpy(row, binary_data=binary)
            request = InferRequest(model_name="simple", infer_inputs=inputs)
            if form == "rest":
                answer = await rest.infer(base, request, model_name="simple")
            else:
                answer = await grpc.infer(request)
            by_name = {output.name: output.as_numpy().ravel().tolist() for output in answer.outputs}
            found[f"{form} {binary}"] = by_name["OUTPUT0"]
    text = InferInput("INPUT0", [1, 3], "BYTES")
    text.set_data_from_numpy(np.array([["a", "b", "c"]], dtype=object), binary_data=True)
    answer = await rest.infer(base, InferRequest("identity_bytes", [text]), model_name="identity_bytes")
    found["text"] = [str(item, "utf-8") if isinstance(item, bytes) else item
                     for item in answer.outputs[0].as_numpy().ravel().tolist()]
    await rest.close()
    await grpc.close()
    print("FOUND", json.dumps(found))

asyncio.run(main(*sys.argv[1:]))
"""


def test_kserves_clients_work_unchanged(service: RunningService) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(service.http_port), str(service.grpc_port)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stdout + done.stderr
    found = json.loads(lines[0].removeprefix("FOUND "))
    doubled = [2 * number for number in range(16)]
    assert found == {
        "rest": [True, True, True],
        "grpc": [True, True, True],
        "rest True": doubled,
        "rest False": doubled,
        "grpc True": doubled,
        "grpc False": doubled,
        "text": ["a", "b", "c"],
    }
