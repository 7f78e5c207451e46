"""When a client's certificates expire, as their files say now."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificate

from access import ClientCertificates
from localstack.wait import until
from support.certificates import Certificates


def ends(file: Path) -> float:
    return load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()


def test_the_ends_are_told_again_whenever_files_are_looked_at_and_one_that_cannot_be_read_says_nothing(
    tmp_path: Path,
) -> None:
    issued = Certificates.issue(tmp_path)
    told: dict[str, float] = {}
    file = tmp_path / "in-use.pem"
    watched = ClientCertificates({"kafka": file, "store": str(issued.client), "other": None}, told.__setitem__)
    watched.look()
    assert told == {"store": ends(issued.client)}, "the file is not there yet"
    file.write_bytes(issued.server.read_bytes())
    watched.look()
    assert told == {"store": ends(issued.client), "kafka": ends(issued.server)}
    file.write_bytes(b"no certificate")
    watched.look()
    assert told["kafka"] == ends(issued.server), "the connections say that"


def test_a_mount_that_hangs_keeps_nobody_waiting_but_the_look(tmp_path: Path) -> None:
    issued = Certificates.issue(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    told: dict[str, float] = {}
    watched = ClientCertificates({"store": issued.client, "kafka": fifo}, told.__setitem__)
    watched.watch(every_s=0.01)
    until(lambda: "store" in told, "the other file is read", within_s=30)
    watched.close()
    os.close(os.open(fifo, os.O_RDWR))
    assert told == {"store": ends(issued.client)}
