"""What a call says besides its message: deadline, cancel, headers, compression, parameters of the answer."""

import asyncio
import gc
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from tritonclient.utils import InferenceServerException

from enginehouse.errors import NotFound
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from service.codecs.forwarding import HeaderPattern
from service.grpc.options import COMPRESSION_LEVELS
from tests.service.grpc.conftest import Serve, Served
from tests.service.grpc.test_stream import ask, inputs, stream, until

SERVICE = "/inference.GRPCInferenceService"
PATH = f"{SERVICE}/ModelInfer"


async def answered(served: Served, number: float = 1, **options: Any) -> Any:
    served.plain.react = lambda asked: asked.answer(number)
    return await served.client.infer("plain", inputs(), **options)


async def test_the_deadline_of_the_call_is_that_of_the_request(serve: Serve) -> None:
    served = await serve()
    await answered(served)
    assert served.plain.asked[0].request.deadline is None
    await answered(served, client_timeout=50)
    await stream(served, ask("plain", "a"), stream_timeout=50)
    for asked in served.plain.asked[1:]:
        request = asked.request
        assert request.deadline is not None
        assert 40 < request.deadline - request.received_at < 51


async def test_a_call_that_is_cancelled_takes_its_request_along(serve: Serve) -> None:
    served = await serve()
    calling = asyncio.create_task(served.client.infer("plain", inputs()))
    await until(lambda: bool(served.plain.asked))
    calling.cancel()
    await until(lambda: served.plain.asked[0].is_cancelled)
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_headers_that_the_pattern_finds_become_parameters(serve: Serve) -> None:
    served = await serve(forwarded=HeaderPattern("^x-|timeout"))
    headers = {"x-tenant": "a", "other": "b", "timeout": "c", "x-both": "header"}
    await answered(served, headers=headers, parameters={"x-both": "own", "mine": 1})
    await stream(served, ask("plain", "a"), headers=headers)
    unary, streamed = (dict(asked.request.parameters) for asked in served.plain.asked)
    assert unary == {"x-tenant": "a", "x-both": "own", "mine": 1}
    assert streamed == {"x-tenant": "a", "x-both": "header"}


async def test_without_a_pattern_no_header_is_forwarded(serve: Serve) -> None:
    served = await serve()
    await answered(served, headers={"x-tenant": "a"})
    assert not served.plain.asked[0].request.parameters


async def test_parameters_of_the_answer_reach_the_client(serve: Serve) -> None:
    served = await serve()
    served.plain.react = lambda asked: asked.answer(1, seed=7, kind="x")
    answer = (await served.client.infer("plain", inputs())).get_response()
    assert answer.parameters["seed"].int64_param == 7
    assert answer.parameters["kind"].string_param == "x"


@dataclass
class Relay:
    """Stands between a client and the server, and counts what the server sends."""

    server_port: int
    sent: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.server_port)
        there = asyncio.create_task(self._copy(reader, to_server, is_back=False))
        back = asyncio.create_task(self._copy(from_server, writer, is_back=True))
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        there.cancel()
        back.cancel()
        for end in (writer, to_server):
            end.close()
            await end.wait_closed()
        self.ended.set()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_back: bool) -> None:
        while data := await reader.read(1 << 16):
            self.sent += len(data) if is_back else 0
            writer.write(data)


async def bytes_sent(served: Served, **options: Any) -> int:
    """How much the server sends for an answer of 40,000 bytes that can be said in fewer."""
    served.plain.react = lambda asked: asked.answer(*[1.0] * 10_000)
    relay = Relay(served.port)
    async with await asyncio.start_server(relay.serve, "127.0.0.1", 0) as middle:
        port = middle.sockets[0].getsockname()[1]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", **options) as channel:
            for path, make in ((PATH, channel.unary_unary), (f"{SERVICE}/ModelStreamInfer", channel.stream_stream)):
                request = ModelInferRequest(model_name="plain").SerializeToString()
                if path == PATH:
                    answer = ModelInferResponse.FromString(await make(path)(request))
                else:
                    (data,) = [data async for data in make(path)(iter([request]))]
                    answer = ModelStreamInferResponse.FromString(data).infer_response
                assert len(answer.raw_output_contents[0]) == 40_000
            await channel.close()
        await relay.ended.wait()
    return relay.sent


async def test_the_time_that_answers_take_to_write_is_counted(serve: Serve) -> None:
    served = await serve()
    await answered(served)
    await stream(served, ask("plain", "a"), ask("plain", "b"))
    assert sum(served.plain.statistics.encode_histogram.counts) == 3


@pytest.mark.parametrize("level", ["low", "medium", "high"])
async def test_answers_are_compressed_as_the_server_is_told(serve: Serve, level: str) -> None:
    assert await bytes_sent(await serve(compression_level=COMPRESSION_LEVELS[level])) < 20_000


async def test_answers_are_sent_as_they_are_by_default_and_to_clients_that_read_nothing_else(serve: Serve) -> None:
    assert await bytes_sent(await serve()) > 80_000
    only_identity = [("grpc.compression_enabled_algorithms_bitset", 1)]
    served = await serve(compression_level=COMPRESSION_LEVELS["high"])
    assert await bytes_sent(served, options=only_identity) > 80_000


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_compressed_requests_are_read_and_held_to_the_limit(serve: Serve, algorithm: str) -> None:
    served = await serve(max_message_bytes=100_000)
    await answered(served, compression_algorithm=algorithm)
    compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}[algorithm]
    bomb = ModelInferRequest(model_name="plain", raw_input_contents=[bytes(1_000_000)]).SerializeToString()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await channel.unary_unary(PATH)(bomb, compression=compression)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(served.plain.asked) == 1


async def test_a_refused_call_keeps_nothing_of_its_request_until_a_collector_comes(serve: Serve) -> None:
    served = await serve()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(InferenceServerException, match="NOT_FOUND"):
                await served.client.infer("nothing", inputs())
            with pytest.raises(InferenceServerException, match="NOT_FOUND"):
                await served.client.get_model_metadata("nothing")
        assert not [one for one in gc.get_objects() if isinstance(one, NotFound)]
    finally:
        gc.enable()
