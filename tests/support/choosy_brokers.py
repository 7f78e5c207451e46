"""Brokers of a cluster on loopback, some of which let no client in, for what is said of it. Each leads a partition.

They speak Kafka's protocol in the versions of `SPOKEN`, whose messages kafka-python reads and writes.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from kafka.errors import UnsupportedVersionError
from kafka.protocol.consumer import ListOffsetsRequest, ListOffsetsResponse
from kafka.protocol.metadata import ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse
from kafka.protocol.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)

from localstack.ports import LOOPBACK

TOPIC = "events"
MECHANISM = "PLAIN"
SPOKEN = {
    ApiVersionsRequest.API_KEY: 0,
    SaslHandshakeRequest.API_KEY: 1,
    SaslAuthenticateRequest.API_KEY: 0,
    MetadataRequest.API_KEY: 4,
    ListOffsetsRequest.API_KEY: 1,
}


class Broker(socketserver.ThreadingTCPServer):
    """One of them."""

    daemon_threads = True

    def __init__(self, node_id: int) -> None:
        super().__init__((LOOPBACK, 0), _Connection)
        self.node_id = node_id
        self.login = 0
        """The error code of its answer to the first request of a login."""
        self.noise = b""
        """What it sends in place of any answer."""
        self.cluster: Sequence[Broker] = ()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{LOOPBACK}:{self.server_address[1]}"

    def answer(self, key: int, version: int) -> Any:
        """The body of the answer to a request."""
        if key == ApiVersionsRequest.API_KEY:
            known = ApiVersionsResponse.ApiVersion
            keys = [known(api_key=key, min_version=v, max_version=v) for key, v in SPOKEN.items()]
            return ApiVersionsResponse(error_code=UnsupportedVersionError.errno if version else 0, api_keys=keys)
        if key == SaslHandshakeRequest.API_KEY:
            return SaslHandshakeResponse(error_code=self.login, mechanisms=[MECHANISM])
        if key == SaslAuthenticateRequest.API_KEY:
            return SaslAuthenticateResponse(error_code=0, error_message=None, auth_bytes=b"")
        if key == MetadataRequest.API_KEY:
            return self._metadata()
        assert key == ListOffsetsRequest.API_KEY, key
        topic = ListOffsetsResponse.ListOffsetsTopicResponse
        at = topic.ListOffsetsPartitionResponse(partition_index=self.node_id, error_code=0, timestamp=-1, offset=7)
        return ListOffsetsResponse(topics=[topic(name=TOPIC, partitions=[at])])

    def _metadata(self) -> Any:
        broker, topic = MetadataResponse.MetadataResponseBroker, MetadataResponse.MetadataResponseTopic
        return MetadataResponse(
            brokers=[
                broker(node_id=one.node_id, host=LOOPBACK, port=one.server_address[1], rack=None)
                for one in self.cluster
            ],
            cluster_id="choosy",
            controller_id=0,
            topics=[
                topic(
                    error_code=0,
                    name=TOPIC,
                    is_internal=False,
                    partitions=[
                        topic.MetadataResponsePartition(
                            error_code=0,
                            partition_index=one.node_id,
                            leader_id=one.node_id,
                            replica_nodes=[one.node_id],
                            isr_nodes=[one.node_id],
                        )
                        for one in self.cluster
                    ],
                )
            ],
        )


class _Connection(socketserver.StreamRequestHandler):
    server: Broker

    def handle(self) -> None:
        while len(size := self.rfile.read(4)) == 4:
            request = self.rfile.read(struct.unpack(">i", size)[0])
            key, version = struct.unpack(">hh", request[:4])
            body = request[4:8] + self.server.answer(key, version).encode(version=SPOKEN[key])
            self.wfile.write(self.server.noise or struct.pack(">i", len(body)) + body)


@contextmanager
def choosy_brokers(count: int) -> Iterator[list[Broker]]:
    """Run so many, which all let clients in; partition i is led by broker i."""
    with ExitStack() as running:
        brokers = [running.enter_context(Broker(node_id)) for node_id in range(count)]
        for broker in brokers:
            broker.cluster = brokers
            threading.Thread(target=broker.serve_forever, args=(0.05,), daemon=True).start()
            running.callback(broker.shutdown)
        yield brokers
