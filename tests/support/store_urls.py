"""Addresses of a store that both services refuse, and endings of such as both take."""

from __future__ import annotations

UNREADABLE = (
    "redis://h:port/0", "redis://h:70000/0", "redis://:hunter2/x@h:1/0", "redis://[::1",
    "redis://h/users", "redis://h/0/1", "redis://:hunter2@h/-1", "redis://:hunter2@h/0?db=x",
    "redis://:hunter2@h/0?db=", "redis://:hunter2@h/0?databse=1", "unix:///s?db=x", "redis://h/0?socket_timeout=soon",
)  # fmt: skip
QUERIES = ("", "?db=3", "?ssl_cert_reqs=none&client_name=ctr", "?socket_timeout=5&protocol=2")
