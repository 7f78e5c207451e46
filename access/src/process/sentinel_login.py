"""How a service logs in at Sentinels. The login in the store's URL is that of the master, and is not sent to them."""

from __future__ import annotations

from pydantic import SecretStr


def sentinel_login(username: str, password: SecretStr | None) -> dict[str, str]:
    """Options of redis-py's connections; none without a password.

    Args:
        username: empty for the user `default`.
        password: None if the Sentinels ask for none.
    """
    if password is None:
        return {}
    return {"password": password.get_secret_value()} | ({"username": username} if username else {})


def login_refused(group: str, *, logs_in: bool) -> str:
    """That a Sentinel refuses the login, and which setting to correct.

    Args:
        group: how the names of the store's settings begin, such as `UIC_REDIS`.
        logs_in: whether the Sentinel was given a password.
    """
    setting = f"{group}__SENTINEL_PASSWORD"
    return (
        f"it refuses the user or password: correct {setting}" if logs_in else f"it asks for a password: set {setting}"
    )
