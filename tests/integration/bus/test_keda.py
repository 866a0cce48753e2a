"""What KEDA's nats-jetstream scaler is told by three real servers, asked as deploy/kubernetes/components/keda says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mayfly.bus.queue import submit
from mayfly.domain.ids import new_id
from mayfly.ops.nats_config import Node as Server
from mayfly.ops.nats_config import node_config
from tests.integration.bus.test_queue import Puller, _work_of
from tests.support.cluster import Cluster, Node, cluster
from tests.support.kubernetes import KUBERNETES
from tests.support.kustomize import load

pytestmark = [pytest.mark.A5, pytest.mark.D7]

TRIGGER = load(KUBERNETES / "components/keda/worker.yaml")[0]["spec"]["triggers"][0]["metadata"]
AGREE_S = 10.0


async def consumer_at(node: Node) -> dict[str, Any] | None:
    """
    Return what one server says of the consumer: of the account, stream and name that the trigger names. None if it has
    not heard of that yet, as a follower may not.
    """
    answer = await node.monitor(f"jsz?acc={TRIGGER['account']}&consumers=true&config=true")
    accounts = [each for each in answer.get("account_details", ()) if each["name"] == TRIGGER["account"]]
    streams = [each for told in accounts for each in told.get("stream_detail", ()) if each["name"] == TRIGGER["stream"]]
    consumers = [
        each for told in streams for each in told.get("consumer_detail", ()) if each["name"] == TRIGGER["consumer"]
    ]
    return dict(consumers[0]) if consumers else None


def leader_of(consumer: dict[str, Any] | None) -> str | None:
    """Return who leads it, as far as that server knows."""
    return consumer.get("cluster", {}).get("leader") if consumer else None


async def load_at_leader(made: Cluster) -> int | None:
    """Return the metric: asked of whoever the first server says leads the consumer. None while that changes."""
    leader = leader_of(await consumer_at(made.nodes[0]))
    consumer = await consumer_at(next(node for node in made.nodes if node.name == leader)) if leader else None
    if consumer is None or leader_of(consumer) != leader:
        return None
    return int(consumer["num_pending"]) + int(consumer["num_ack_pending"])


async def test_the_scaler_counts_waiting_and_running_activations() -> None:
    """With five activations admitted and two of them claimed the metric is five, and none when all have ended."""
    async with cluster() as made, made.connect("api") as api, made.connect("worker") as bus:
        for _ in range(5):
            await submit(api, _work_of(new_id()), wait_s=1)
        worker = Puller(bus, slots=2)
        claims = [await worker.next(), await worker.next()]

        async with asyncio.timeout(AGREE_S):
            while await load_at_leader(made) != 5:
                await asyncio.sleep(0.1)

        for _ in range(3):
            await worker.finish(claims.pop())
            claims.append(await worker.next())
        for claim in claims:
            await worker.finish(claim)
        async with asyncio.timeout(AGREE_S):
            while await load_at_leader(made) != 0:
                await asyncio.sleep(0.1)
        await worker.stop()


async def test_servers_are_found_by_name() -> None:
    """No server tells KEDA addresses of clients' ports, so it goes by names: of a server, and of its routes' hosts."""
    async with cluster() as made:
        for node in made.nodes:
            told = await node.monitor("varz")
            assert not told.get("connect_urls")
            assert told["server_name"] == node.name
            assert len(told["cluster"]["urls"]) == 2


def test_a_servers_name_is_its_pods() -> None:
    """In Kubernetes a server's name and the first label of its routes' hosts are names below the scaler's address."""
    domain = TRIGGER["natsServerMonitoringEndpoint"].partition(":")[0]
    hosts = tuple(f"nats-{number}.{domain}" for number in range(3))
    server = Server(hosts[0], hosts[1:], monitor="0.0.0.0")

    assert server.name == "nats-0"
    assert [
        f"@{host}:6222"
        in node_config(server, passwords=dict.fromkeys(("admin", "api", "worker"), "x"), route_password="y")
        for host in hosts
    ] == [False, True, True]
