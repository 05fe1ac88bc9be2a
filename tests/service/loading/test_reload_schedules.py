"""Models come, change and go at random while they are asked: every request is answered once, by what was there."""

import asyncio
import random

import pytest

from enginehouse.errors import Error, InvalidInput, NotFound
from service.request import InferResponse
from tests.service.conftest import House, make_request, make_scale_model, publish

CONFIG = '{"max_batch_size": 4}'
CHANGES = 25
CLIENTS = 6


class Client:
    """Asks one model after the other, and counts how often each request was answered."""

    def __init__(self, house: House, seed: int) -> None:
        self.house = house
        self.random = random.Random(seed)
        self.answers: list[list[InferResponse | Error]] = []
        self.is_over = False

    async def ask(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.is_over:
            answered = loop.create_future()
            told: list[InferResponse | Error] = []
            self.answers.append(told)

            def settle(
                answer: InferResponse | Error,
                told: list[InferResponse | Error] = told,
                answered: asyncio.Future[None] = answered,
            ) -> None:
                told.append(answer)
                if not answered.done():
                    answered.set_result(None)

            request = make_request([1.0])
            request.model_name = self.random.choice(["a", "b"])
            admitted = self.house.server.infer(request, settle)
            if admitted is not None and self.random.random() < 0.1:
                admitted.cancel()
            await asyncio.wait_for(answered, 30)


async def change(house: House, chance: random.Random) -> None:
    """One change that a client or an operator may make; some of them fail, as they should."""
    name = chance.choice(["a", "b"])
    factor = chance.choice([1.0, 2.0, 3.0])
    try:
        match chance.choice(["load", "load", "files", "broken", "unload"]):
            case "load":
                await house.server.load(name)
            case "files":
                content = make_scale_model(factor).SerializeToString()
                await house.server.load(name, CONFIG, {"file:7/model.onnx": content})
            case "broken":
                await house.server.load(name, CONFIG, {"file:7/model.onnx": b"nonsense"})
            case "unload":
                await house.server.unload(name, chance.random() < 0.5)
    except (InvalidInput, NotFound):
        return


@pytest.mark.parametrize("seed", range(4))
async def test_every_request_is_answered_once_however_models_come_and_go(house: House, seed: int) -> None:
    for name in ("a", "b"):
        publish(house.root, 1, name, chosen=1, original=1, built=1)
        await house.server.load(name)
    chance = random.Random(seed)
    clients = [Client(house, seed * 100 + number) for number in range(CLIENTS)]
    asking = [asyncio.create_task(client.ask()) for client in clients]
    for _ in range(CHANGES):
        changes = [change(house, chance) for _ in range(chance.randint(1, 3))]
        await asyncio.wait_for(asyncio.gather(*changes), 30)
    for client in clients:
        client.is_over = True
    await asyncio.gather(*asking)
    answers = [answer for client in clients for answer in client.answers]
    assert {len(told) for told in answers} == {1}
    kinds = {type(told[0]).__name__ for told in answers}
    assert kinds <= {"InferResponse", "Cancelled", "NotReady", "NotFound"}
    assert "InferResponse" in kinds
    assert len(answers) > CHANGES
    for name in ("a", "b"):
        await house.server.load(name)
        assert await house.factor(name=name) == 1
        assert house.loader.repository.model_directory(name).parent == house.root
