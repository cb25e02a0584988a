"""One address never takes the whole queue, all turns or all listeners: each has its share, and addresses take turns."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from starlette.requests import Request

from velo.feature_repo.stores.race_cards import Event
from velo.serving.api import events
from velo.serving.api.events import Hub
from velo.serving.api.limits import Lane, client_of
from velo.serving.api.problems import Refusal


async def queued(lane: Lane, *clients: str) -> list["asyncio.Task[str]"]:
    """A request of each client, in this order, while the lane's one thread is taken."""
    tasks = []
    for client in clients:
        tasks.append(asyncio.create_task(lane.run(client, str, client)))
        await asyncio.sleep(0)
    return tasks


async def with_thread_taken(lane: Lane, then: Callable[[], Any]) -> Any:
    """What `then` returns, done while the lane's one thread is taken."""
    free = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        asyncio.run_coroutine_threadsafe(free.wait(), loop).result()

    holder = asyncio.create_task(lane.run("holder", hold))
    await asyncio.sleep(0)
    done = await then()
    free.set()
    await holder
    return done


def test_addresses_take_turns_whatever_one_of_them_asks() -> None:
    """Ten requests of one address before one of each of two others: each of those waits for one of the ten."""
    order: list[str] = []

    async def story() -> None:
        lane = Lane("work", 1)

        async def crowd() -> list["asyncio.Task[None]"]:
            tasks = []
            for client in ["many"] * 10 + ["few", "one"]:
                tasks.append(asyncio.create_task(lane.run(client, order.append, client)))
                await asyncio.sleep(0)
            return tasks

        await asyncio.gather(*await with_thread_taken(lane, crowd))

    asyncio.run(story())
    assert order == ["many", "few", "one"] + ["many"] * 9


def test_an_address_that_holds_its_share_is_refused_with_429_and_another_is_not() -> None:
    async def story() -> list[Any]:
        lane = Lane("work", 1, most=8, share=0.5)
        tasks = await with_thread_taken(lane, lambda: queued(lane, *["many"] * 6, "other"))
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(story())
    assert answers[:4] == ["many"] * 4
    assert answers[6] == "other"
    for refusal in answers[4:6]:
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.queue) == (429, "work")
        assert "4 requests of this address wait for work: ask more slowly" in refusal.detail


def test_a_full_queue_takes_a_request_of_an_address_with_fewer_in_place_of_the_newest_of_the_one_with_most() -> None:
    async def story() -> list[Any]:
        lane = Lane("work", 1, most=6, share=1.0)
        tasks = await with_thread_taken(lane, lambda: queued(lane, *"aaaab", "b", "c", "b", "a", "d"))
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(story())
    # six wait: a a a a b b; c displaces the fourth a, the third b may not displace the third a, nor may the next a; d may
    kept = [answer if isinstance(answer, str) else answer.status for answer in answers]
    assert kept == ["a", "a", 503, 503, "b", "b", "c", 503, 503, "d"]
    assert [answer.queue for answer in answers if isinstance(answer, Refusal)] == ["work", "work", None, None]


def test_no_turn_is_lost_by_who_gives_up_at_any_moment() -> None:
    """Three hundred requests, half of them cancelled and many too late: then every thread is idle and nobody waits."""

    async def story() -> None:
        chance = random.Random(3)
        lane = Lane("work", 3, most=50, seconds=0.05, share=0.5)
        tasks = []
        for number in range(300):
            tasks.append(asyncio.create_task(lane.run(f"client {number % 4}", lambda: None)))
            if chance.random() < 0.5:
                asyncio.get_running_loop().call_later(chance.random() / 20, tasks[-1].cancel)
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() / 300)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert lane.waiting == 0
        assert await asyncio.gather(*(lane.run("after", lambda: 1) for _ in range(3))) == [1, 1, 1]
        assert lane._idle == 3

    asyncio.run(story())


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::"),
        ("2001:db8:1:2:bbbb::9", "2001:db8:1:2::"),
        ("2001:db8:1:3::9", "2001:db8:1:3::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::"),
        ("testclient", "testclient"),
    ],
)
def test_a_client_is_its_address_and_of_ipv6_its_network(host: str, counted: str) -> None:
    request = Request({"type": "http", "client": (host, 1), "headers": []})
    assert asyncio.run(client_of(request)) == counted


def test_listeners_have_their_share_and_the_address_with_most_gives_way_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "LISTENERS", 4)
    displaced: list[int] = []

    async def story() -> None:
        hub = Hub(lambda after: [], lambda: "0-0", 0.75, lambda: displaced.append(1))
        lines: dict[str, AsyncIterator[bytes]] = {}
        for name in ("a 1", "a 2", "a 3", "b 1"):
            lines[name] = await hub.listen(None, name[0])
            assert await anext(lines[name]) == b": what changes, from here on\n\n"
        with pytest.raises(Refusal, match="3 listeners of this address") as over:
            await hub.listen(None, "a")
        assert (over.value.status, over.value.queue) == (429, "listeners")
        lines["c 1"] = await hub.listen(None, "c")
        assert await anext(lines["c 1"])
        with pytest.raises(StopAsyncIteration):
            await anext(lines["a 3"])
        assert len(displaced) == 1
        with pytest.raises(Refusal, match="4 listeners are connected") as full:
            await hub.listen(None, "b")
        assert full.value.status == 503
        await hub.stop()
        for name in ("a 1", "a 2", "b 1", "c 1"):
            with suppress(StopAsyncIteration):
                await anext(lines[name])

    asyncio.run(story())


def test_listeners_hear_a_heartbeat_while_nothing_happens_and_then_the_events_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(events, "EVERY_S", 0.01)
    log: list[Event] = []

    def after(event_id: str) -> list[Event]:
        return [event for event in log if events.place_of(event.id) > events.place_of(event_id)]

    async def story() -> list[bytes]:
        hub = Hub(after, lambda: log[-1].id if log else "0-0")
        lines = await hub.listen(None)
        heard = [await anext(lines), await anext(lines)]
        for seq in (1, 2):
            log.append(Event(f"{seq}-0", "market", f"race {seq}", "2024-01-01T00:00:00Z", b"{}"))
            while not (block := await anext(lines)).startswith(b"id:"):
                assert block == b": still here\n\n"
            heard.append(block)
        await hub.stop()
        return heard

    first, heartbeat, each, two = asyncio.run(story())
    assert first == b": what changes, from here on\n\n"
    assert heartbeat == b": still here\n\n"
    assert each.startswith(b"id: 1-0\nevent: market\n")
    assert two.startswith(b"id: 2-0\nevent: market\n")
    assert each.count(b"id:") == two.count(b"id:") == 1
