"""Our messages live in a descriptor pool of their own, so that any client's may stand beside them."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

OURS = "import enginehouse.proto.grpc_service_pb2 as ours"
TRITON = "import tritonclient.grpc.service_pb2 as theirs"
KSERVE = "import warnings; warnings.simplefilter('ignore'); import kserve.protocol.grpc.grpc_predict_v2_pb2 as theirs"


@pytest.mark.parametrize("client", [TRITON, KSERVE], ids=["tritonclient", "kserve"])
@pytest.mark.parametrize("is_ours_first", [True, False], ids=["ours first", "ours second"])
def test_one_process_holds_both_and_they_speak_the_same_bytes(client: str, is_ours_first: bool) -> None:
    imports = [OURS, client] if is_ours_first else [client, OURS]
    program = [
        *imports,
        "message = theirs.ModelInferRequest(model_name='m', id='7', raw_input_contents=[b'abc'])",
        "message.inputs.add(name='x', datatype='FP32', shape=[1, -1]).contents.fp32_contents.extend([1, 2])",
        "message.parameters['timeout'].int64_param = 5",
        "read = ours.ModelInferRequest.FromString(message.SerializeToString())",
        "assert read.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)",
        "assert read.inputs[0].contents.fp32_contents == [1, 2]",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
