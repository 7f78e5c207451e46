"""The compose file and the images say what the local stack and the services' settings say, and are locked down."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from access import KeyRing
from access.__main__ import main as ctr_keys
from localstack.process import GRACE_S
from localstack.stack import BUNDLE, CHEAPER_BUNDLE, DOCUMENTED_PORTS
from localstack.topics import topics
from localstack.uic_and_rtp import RTP_COMMAND, UIC_COMMAND, Surroundings, rtp_variables, uic_variables
from localstack.valkey import Valkey
from mimn.bundle import load_bundle
from rtp.settings import RtpSettings
from support import skips
from uic.__main__ import main as uic_main
from uic.settings import UicSettings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "docker-compose.yml"
ONE_SHOT = "topics"
KEYS_FILE = "/run/secrets/keys"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(compose["services"])


def uic_settings() -> UicSettings:
    return UicSettings()  # type: ignore[call-arg] # the bundle's path comes from the environment


def runs(command: list[str]) -> bool:
    found = shutil.which(command[0])
    return found is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def surroundings(environment: dict[str, str], service: str) -> Surroundings:
    """What the local stack would be given to start a service with the addresses of the compose file."""
    return Surroundings(
        bootstrap=environment.get("UIC_KAFKA__BOOTSTRAP_SERVERS", ""),
        redis_url=environment[f"{service}_REDIS__URL"],
        bundle=Path(environment[f"{service}_BUNDLE__PATH"]),
    )


def test_the_file_is_valid_by_the_compose_specification(compose: dict[str, Any]) -> None:
    schemas = files("check_jsonschema").joinpath("builtin_schemas", "vendor", "compose-spec.json")
    schema = json.loads(schemas.read_text())
    jsonschema.Draft202012Validator(schema).validate(compose)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**compose, "services": {"uic": {"imagee": "x"}}})


def test_the_compose_command_line_accepts_the_file() -> None:
    command = next((words for words in (["docker-compose"], ["docker", "compose"]) if runs([*words, "version"])), None)
    if command is None:
        pytest.skip(skips.NO_COMPOSE)
    done = subprocess.run([*command, "--file", FILE, "config", "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()


def test_topics_are_created_as_the_local_stack_creates_them(services: dict[str, dict[str, Any]]) -> None:
    script = services[ONE_SHOT]["command"][-1]
    created = []
    for line in script.splitlines():
        words = shlex.split(line)
        if words and words[0] == "create":
            options = list(zip(words[1::2], words[2::2], strict=True))
            settings = dict(value.split("=", 1) for name, value in options if name == "--config")
            named = {name: value for name, value in options if name != "--config"}
            assert set(named) == {"--topic", "--partitions"}
            created.append((named["--topic"], int(named["--partitions"]), settings))
    assert created == [(topic.name, topic.partitions, dict(topic.settings)) for topic in topics()]


@pytest.mark.parametrize(("service", "command"), [("uic", UIC_COMMAND), ("rtp", RTP_COMMAND)])
def test_commands_are_the_local_stacks(
    services: dict[str, dict[str, Any]], service: str, command: tuple[str, ...]
) -> None:
    assert services[service]["command"] == ["python", *command]
    dockerfile = (ROOT / "services" / service / "Dockerfile").read_text()
    assert json.loads(re.findall(r"^CMD (.*)$", dockerfile, re.M)[-1]) == ["python", *command]


def test_variables_are_the_local_stacks(services: dict[str, dict[str, Any]]) -> None:
    told = services["uic"]["environment"]
    ours = uic_variables(
        surroundings(told, "UIC"), grpc_port=DOCUMENTED_PORTS.uic_grpc, admin_port=DOCUMENTED_PORTS.uic_admin
    )
    hosts = {"UIC_GRPC__HOST": "0.0.0.0", "UIC_ADMIN__HOST": "0.0.0.0"}  # noqa: S104 - in a container
    assert told == {**ours, **hosts, "UIC_ACCESS__KEYS_FILE": KEYS_FILE}
    told = services["rtp"]["environment"]
    ours = rtp_variables(surroundings(told, "RTP"), port=DOCUMENTED_PORTS.rtp, admin_port=DOCUMENTED_PORTS.rtp_admin)
    hosts = {"RTP_HTTP__HOST": "0.0.0.0", "RTP_ADMIN__HOST": "0.0.0.0"}  # noqa: S104 - in a container
    assert told == {**ours, **hosts, "RTP_ACCESS__KEYS_FILE": KEYS_FILE}


def test_services_in_containers_have_keys_and_the_file_says_how_to_make_them(
    compose: dict[str, Any], services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for service in ("uic", "rtp"):
        assert services[service]["secrets"] == ["keys"]
    file = compose["secrets"]["keys"]["file"]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert f"deploy/{Path(file).parent.name}/" in ignored
    [command] = re.findall(r"ctr keys (make .*)$", FILE.read_text(), re.M)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy").mkdir()
    assert ctr_keys(shlex.split(command)) == 0
    assert len(KeyRing(tmp_path / "deploy" / file)) == 1


def test_a_container_without_its_keys_does_not_start(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = services["uic"]["environment"]
    for name, value in told.items():
        if not name.endswith(("PORT", "KEYS_FILE")):
            monkeypatch.setenv(name, value)
    assert uic_main(["serve"]) == 2
    assert "UIC_ACCESS__KEYS_FILE" in capsys.readouterr().err


def test_the_settings_know_every_variable_and_the_documented_ports_are_the_defaults(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ("uic", "rtp"):
        for name, value in services[service]["environment"].items():
            monkeypatch.setenv(name, value)
    uic, rtp = uic_settings(), RtpSettings()  # a group refuses a variable that it does not know
    assert uic.kafka.bootstrap_servers == "kafka:29092"
    assert (uic.redis.prefix, uic.bundle.path, uic.bundle.generation) == (
        rtp.redis.prefix,
        rtp.bundle.path,
        rtp.bundle.generation,
    )
    ports = (rtp.http.port, rtp.admin.port, uic.grpc.port, uic.admin.port)
    assert ports == (8000, 8002, 8001, 8003)
    for name in services["uic"]["environment"].keys() | services["rtp"]["environment"].keys():
        if name.endswith(("__PORT", "__TOPIC", "__PARTITIONS", "__PREFIX", "__GENERATION")):
            monkeypatch.delenv(name)
    assert uic_settings().kafka == uic.kafka
    assert uic_settings().grpc.port == uic.grpc.port
    assert RtpSettings().http.port == rtp.http.port


def test_every_variable_of_the_example_file_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    named = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M)
    assert len(named) > 15
    for name, value in named:
        monkeypatch.setenv(name, value)
    assert uic_settings().redis.prefix == RtpSettings().redis.prefix
    groups = {f"UIC_{group.upper()}" for group in UicSettings.model_fields}
    groups |= {f"RTP_{group.upper()}" for group in RtpSettings.model_fields}
    assert {name.split("__")[0] for name, _ in named if "__" in name} <= groups
    monkeypatch.setenv("UIC_KAFKA__TOPICC", "typo")
    with pytest.raises(ValueError, match="topicc"):
        uic_settings()


def test_valkey_is_started_with_the_local_stacks_options(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    ours = Valkey(tmp_path, port=DOCUMENTED_PORTS.redis).command()[1:]
    theirs = services["valkey"]["command"][1:]

    def options(words: list[str]) -> dict[str, str]:
        return dict(zip(words[::2], words[1::2], strict=True))

    expected = {name: value for name, value in options(ours).items() if name not in ("--dir", "--bind")}
    assert {name: value for name, value in options(theirs).items() if name != "--dir"} == expected


def test_ports_are_published_on_loopback_alone_and_are_the_documented_ones(services: dict[str, dict[str, Any]]) -> None:
    published = {port for service in services.values() for port in service.get("ports", [])}
    documented = (
        DOCUMENTED_PORTS.rtp,
        DOCUMENTED_PORTS.rtp_admin,
        DOCUMENTED_PORTS.uic_grpc,
        DOCUMENTED_PORTS.uic_admin,
        DOCUMENTED_PORTS.redis,
        DOCUMENTED_PORTS.kafka,
    )
    assert published == {f"127.0.0.1:{port}:{port}" for port in documented}


def test_every_container_is_locked_down_and_pinned(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), name
        assert re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+", service["image"]), name
        assert "privileged" not in service, name
        if name == ONE_SHOT:
            assert service["restart"] == "no"
        else:
            assert service["healthcheck"]["test"], name
            assert float(service["stop_grace_period"].removesuffix("s")) >= GRACE_S, name


def test_the_model_served_is_the_local_stacks_and_the_cheaper_one_is_named(services: dict[str, dict[str, Any]]) -> None:
    for variables in (services["uic"]["environment"], services["rtp"]["environment"]):
        paths = [value for name, value in variables.items() if name.endswith("_BUNDLE__PATH")]
        assert paths == [f"/bundles/{BUNDLE.relative_to('models/bundles')}"]
    assert f"/bundles/{CHEAPER_BUNDLE.relative_to('models/bundles')}" in FILE.read_text()
    assert (ROOT / BUNDLE / "manifest.json").is_file()
    assert RtpSettings.model_fields["bundle"].default.path == BUNDLE
    assert load_bundle(ROOT / BUNDLE).manifest.model["variant"] == "paper"  # with a memory


@pytest.mark.parametrize("service", ["uic", "rtp"])
def test_an_image_is_small_unprivileged_and_has_no_torch(services: dict[str, dict[str, Any]], service: str) -> None:
    dockerfile = (ROOT / "services" / service / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.M)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert re.findall(r"^USER (.*)$", dockerfile, re.M) == [services[service]["user"]]
    assert f"--require-hashes --requirement services/{service}/requirements.txt" in dockerfile
    own = re.search(r"pip install --no-deps --no-build-isolation (.*) \\$", dockerfile, re.M)
    assert own
    assert not any("deploy" in source for source in own[1].split())  # the embedded servers of the local stack
    assert not re.search(r"^COPY .*deploy", dockerfile, re.M)
    assert f'org.opencontainers.image.title="ctr-serving: {service.upper()}"' in dockerfile
    assert "find_spec('torch') is None" in dockerfile
    other = {"uic": "rtp", "rtp": "uic"}[service]
    assert f"services/{other}" not in dockerfile
    for source in re.findall(r"^COPY (?!--from)(\S+) ", dockerfile, re.M):
        assert (ROOT / source).exists(), source
    exposed = re.findall(r"^EXPOSE (.*)$", dockerfile, re.M)[0].split()
    assert sorted(exposed) == sorted(port.rsplit(":", 1)[1] for port in services[service]["ports"])
