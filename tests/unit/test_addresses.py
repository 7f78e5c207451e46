"""Addresses of servers: what a setting takes, and how a mistake is told."""

from __future__ import annotations

import pytest
from kafka.cluster import collect_hosts

from process.addresses import bracketed, check_addresses, check_addresses_if_any, hosts_and_ports, joined, plain_host


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a", ":1", "a:", "a:port", "a:1;b:2", "a:1 b:2", "a:1,,b:2", "a:1,"),
        *("a:0", "a:65536", "127.0.0.1:99999", "a:1,b:100000", "a:-1", "a:9_2", "a:\u0661\u0662", "a:\u00b2"),
    ],
)
def test_what_is_no_host_or_no_port_is_refused_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match="ports from 1 to 65535") as refused:
        check_addresses(text)
    assert str(refused.value).startswith(f"{text!r} is not host:port, or several of them separated by commas")


@pytest.mark.parametrize("text", ["redis://:hunter2@a:1/0", "user:hunter2@a:1", "user:hunter2@b@a:1"])
def test_a_password_in_an_address_is_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"'a:1(/0)?' is not host:port"):
        check_addresses(text)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a:1", [("a", 1)]),
        ("a:1, b:65535", [("a", 1), ("b", 65535)]),
        (" [::1]:9092 ,\ta:09092", [("::1", 9092), ("a", 9092)]),
    ],
)
def test_addresses_that_are_taken_are_read_and_kafkas_client_reads_the_same(
    text: str, hosts: list[tuple[str, int]]
) -> None:
    assert hosts_and_ports(check_addresses(text)) == hosts
    assert sorted(tuple(host[:2]) for host in collect_hosts(text.split(","))) == sorted(hosts)


def test_no_address_at_all_may_be_allowed() -> None:
    assert hosts_and_ports(check_addresses_if_any("")) == []
    with pytest.raises(ValueError, match="'a' is not host:port"):
        check_addresses_if_any("a")


@pytest.mark.parametrize(
    ("given", "host", "address"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:8001"),
        ("shop.example", "shop.example", "shop.example:8001"),
        ("::1", "::1", "[::1]:8001"),
        ("[::1]", "::1", "[::1]:8001"),
        ("[::]", "::", "[::]:8001"),
    ],
)
def test_an_ipv6_host_is_taken_with_and_without_brackets_and_has_them_before_a_port(
    given: str, host: str, address: str
) -> None:
    assert plain_host(given) == host
    assert joined(host, 8001) == address


@pytest.mark.parametrize("host", ["[127.0.0.1]", "[shop]", "[", "[]", "[:", "[::1", "::1]", "]"])
def test_brackets_hold_an_ipv6_address(host: str) -> None:
    with pytest.raises(ValueError, match="is no IPv6 address in brackets"):
        plain_host(host)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("::1:8001", "[::1]:8001"),
        ("[::1]:8001", "[::1]:8001"),
        ("shop:8001", "shop:8001"),
        ("127.0.0.1:8001", "127.0.0.1:8001"),
        ("dns:///shop:8001", "dns:///shop:8001"),
        ("unix:/run/uic", "unix:/run/uic"),
    ],
)
def test_the_address_of_an_option_gets_the_brackets_that_it_lacks(given: str, address: str) -> None:
    assert bracketed(given) == address
