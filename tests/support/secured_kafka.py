"""A real Apache Kafka that asks its clients for a password and for rights, for a test: TLS, SCRAM and ACLs.

`address` is open to the test itself, which is the super user there. The other listeners have TLS and SCRAM, and there a
user may do only what an ACL allows: `secured_address`; `mutual_address`, which also asks for a client's certificate;
`renewing_address`, whose clients must log in again every 3 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from localstack.apache_kafka import ApacheKafka
from localstack.topics import create_topics, topics
from localstack.wait import until
from support.certificates import Certificates
from support.for_test import TopicsForTest
from support.kafka_home import kafka_home

MECHANISM = "SCRAM-SHA-512"
USER = "uic"
PASSWORD = "a-password"
LISTENERS = ("secured", "mutual", "renewing")


class SecuredKafka(ApacheKafka):
    """One node with `StandardAuthorizer`; `start`, `stop`, `kill`, `freeze` and `restart` keep its ports."""

    def __init__(self, home: Path, folder: Path, certificates: Certificates) -> None:
        super().__init__(home, folder)
        self.certificates = certificates
        for listener in LISTENERS:
            self.ports[listener] = 0
            self._free.append(listener)

    @property
    def secured_address(self) -> str:
        """A bootstrap address for clients with a user."""
        return f"localhost:{self.ports['secured']}"

    @property
    def mutual_address(self) -> str:
        """The same for clients with a certificate."""
        return f"localhost:{self.ports['mutual']}"

    @property
    def renewing_address(self) -> str:
        """The same for clients that log in again every 3 s."""
        return f"localhost:{self.ports['renewing']}"

    def settings(self) -> dict[str, str]:
        """Its `server.properties`. The certificate is read at each start."""
        stores: dict[str, str] = {}
        for kind, pems in (
            ("keystore", (self.certificates.server_key, self.certificates.server)),
            ("truststore", (self.certificates.ca,)),
        ):
            store = self.folder.resolve() / f"{kind}.pem"
            store.write_bytes(b"".join(pem.read_bytes() for pem in pems))
            stores |= {f"ssl.{kind}.type": "PEM", f"ssl.{kind}.location": str(store)}
        ours = super().settings()
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        at = {name: f"{name.upper()}://127.0.0.1:{self.ports[name]}" for name in LISTENERS}
        told = {name: f"{name.upper()}://localhost:{self.ports[name]}" for name in LISTENERS}
        return {
            **ours,
            "listeners": ",".join([ours["listeners"], *at.values()]),
            "advertised.listeners": ",".join([ours["advertised.listeners"], *told.values()]),
            "listener.security.protocol.map": ",".join(
                [ours["listener.security.protocol.map"], *(f"{name.upper()}:SASL_SSL" for name in LISTENERS)]
            ),
            **stores,
            "sasl.enabled.mechanisms": MECHANISM,
            **{f"listener.name.{name}.{MECHANISM.lower()}.sasl.jaas.config": scram for name in LISTENERS},
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.renewing.connections.max.reauth.ms": "3000",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
            "offsets.topic.num.partitions": "8",
            "group.min.session.timeout.ms": "1000",
        }

    def set_password(self, password: str, user: str = USER) -> None:
        """Let `user` log in with `password` and no other one. Open connections stay; `restart` ends them."""
        wanted = UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, password, iterations=4096)
        with self._admin() as admin:
            told = admin.alter_user_scram_credentials([wanted])
        assert not any(told.values()), told

    def grant(self, operation: str, resource: str, name: str, *, prefixed: bool = False, user: str = USER) -> None:
        """Allow `user` an operation, and wait until the broker knows it.

        Args:
            operation: as Kafka names it, such as "READ" or "DESCRIBE_CONFIGS".
            resource: "topic", "group", "transactional_id" or "cluster".
            name: of the resource.
            prefixed: all resources whose names begin with `name`.
            user: who may do it.
        """
        self._change(_acl(operation, resource, name, prefixed, user), there=True)

    def revoke(self, operation: str, resource: str, name: str, *, prefixed: bool = False, user: str = USER) -> None:
        """Take back what `grant` gave with the same arguments, and wait until the broker knows it."""
        self._change(_acl(operation, resource, name, prefixed, user), there=False)

    @property
    def tools(self) -> Path:
        """The folder of Kafka's own tools."""
        return self._home / "bin"

    def grant_documented(self, named: TopicsForTest, prefix: str, *, user: str = USER) -> None:
        """Allow `user` what docs/runbooks/kafka-users.md demands; `prefix` is that of Redis's keys and the groups."""
        for topic in (named.events, named.dlq, named.erased):
            for operation in ("READ", "WRITE"):
                self.grant(operation, "topic", topic, user=user)
        self.grant("READ", "group", prefix, prefixed=True, user=user)
        self.grant("WRITE", "transactional_id", f"{named.events}.", prefixed=True, user=user)

    def create(self, events: str, partitions: int) -> TopicsForTest:
        """The three topics, made by the super user; `bootstrap` is the secured address."""
        create_topics(self.address, topics(events, partitions))
        return TopicsForTest(self.secured_address, events, partitions)

    def variables(self, user: str = USER, password: str = PASSWORD) -> dict[str, str]:
        """UIC's settings of how it connects as `user`, without the address."""
        return {
            "UIC_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "UIC_KAFKA__SSL_CAFILE": str(self.certificates.ca),
            "UIC_KAFKA__SASL_MECHANISM": MECHANISM,
            "UIC_KAFKA__SASL_USERNAME": user,
            "UIC_KAFKA__SASL_PASSWORD": password,
        }

    def client_options(self, user: str = USER, password: str = PASSWORD) -> dict[str, str]:
        """A Kafka client's options to connect as `user`, address included."""
        return {
            "bootstrap_servers": self.secured_address,
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self.certificates.ca),
            "sasl_mechanism": MECHANISM,
            "sasl_plain_username": user,
            "sasl_plain_password": password,
        }

    @contextmanager
    def _admin(self) -> Iterator[KafkaAdminClient]:
        admin = KafkaAdminClient(bootstrap_servers=self.address)
        try:
            yield admin
        finally:
            admin.close()

    def _change(self, acl: ACL, *, there: bool) -> None:
        pattern = acl.resource_pattern
        at = ResourcePatternFilter(pattern.resource_type, pattern.resource_name, pattern.pattern_type)
        same = ACLFilter(acl.principal, acl.host, acl.operation, acl.permission_type, at)
        with self._admin() as admin:
            if there:
                failed = admin.create_acls([acl])["failed"]
            else:
                failed = [wrong for _, _, wrong in admin.delete_acls([same]) if wrong.errno]
            assert not failed, failed
            until(lambda: bool(admin.describe_acls(same)[0]) is there, f"the broker knows {acl}", within_s=60)


@contextmanager
def secured_kafka(folder: Path, certificates: Certificates) -> Iterator[SecuredKafka]:
    """One of the test's own (about 7 s) that it may stop. `USER` may do nothing until `grant`.

    Skips the test where there is no Kafka.
    """
    with SecuredKafka(kafka_home(), folder / "broker", certificates) as kafka:
        kafka.set_password(PASSWORD)
        yield kafka


def _acl(operation: str, resource: str, name: str, prefixed: bool, user: str) -> ACL:
    kind = ACLResourcePatternType.PREFIXED if prefixed else ACLResourcePatternType.LITERAL
    return ACL(
        principal=f"User:{user}",
        host="*",
        operation=ACLOperation[operation],
        permission_type=ACLPermissionType.ALLOW,
        resource_pattern=ResourcePattern(ResourceType[resource.upper()], name, kind),
    )
