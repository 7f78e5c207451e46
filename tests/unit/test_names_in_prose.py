"""Names that documents and docstrings put between backticks exist: modules and what is in them, files, make targets,
settings, metrics. A rename that forgets the prose fails here, with the file and the line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tree_names import tree

ROOT = Path(__file__).parents[2]
HISTORY = ("CHANGELOG.md",)
"""Speaks of names as they were."""
ELSEWHERE = {
    "FusedGemm": "onnxruntime's",
    "KAFKA_HOME": "Apache Kafka's",
    "KEY_VALUES_MISMATCH": "OpenSSL's",
    "NO_CERTIFICATE_OR_CRL_FOUND": "OpenSSL's",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "OpenSSL's",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "OpenSSL's",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "OpenSSL's",
    "TLSV1_ALERT_UNKNOWN_CA": "OpenSSL's",
    "LpNormalization": "ONNX's",
    "PREEMPT_NONE": "Linux's",
    "Session.run": "onnxruntime's",
    "UIC_KAFAK__TOPIC=x": "a misspelling, as an example",
    "consumer._coordinator": "kafka-python's",
    "compression.type": "Apache Kafka's",
    "connections.max.reauth.ms": "Apache Kafka's",
    "metadata.max.age.ms": "Apache Kafka's",
    "offsets.retention.minutes": "Apache Kafka's",
    "CreateTime": "Apache Kafka's",
    "incremental_assign": "confluent-kafka's",
    "script/rum.py": "a file of MIMN's authors",
    "rtp.log": "an operator's file",
    "erase.secret": "an operator's file",
    "item_table.reads": "a field of the manifest",
    "state.kind": "a field of the manifest",
    "stock_code": "a column of the published data",
    "state.blocks": "a field of the manifest",
    "kafka-server-start.sh": "Apache Kafka's",
    "preexec_fn": "the standard library's",
    "proxy_next_upstream": "nginx's",
    "serve.batch": "Ray Serve's",
    "sketch.rule": "a field of the manifest",
    "tcpi_unacked": "Linux's",
    "events.sha256": "a key of a description",
    "manifest.sha256": "a file of a bundle, which reads like an attribute",
    "model.head": "a setting of a training configuration",
    "training.learning_rate": "a setting of a training configuration",
    "training.validation_length": "a setting of a training configuration",
    "windows.length": "a setting of a training configuration",
}
"""Names that look like ours and belong to others."""
NOTHING = "nothing"  # put together below, because a variable, a metric or a file that code names counts as known


def spans(text: str, line: int) -> Iterator[tuple[int, str]]:
    """What stands between backticks, with line numbers. By paragraph, so that a stray backtick spoils only its own."""
    for paragraph in re.finditer(r"(?:.+\n?)+", text):
        for span in re.finditer(r"`([^`]+)`", paragraph[0]):
            at = line + text.count("\n", 0, paragraph.start() + span.start())
            yield at, " ".join(span[1].split())


def in_markdown(path: Path) -> Iterator[tuple[int, str]]:
    """Spans, the lines of commands, and dotted names in diagrams (fences without a language)."""
    fence: str | None = None
    prose = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("```"):
            fence = line[3:].strip() if fence is None else None
            prose.append("")
            continue
        prose.append("" if fence is not None else line)
        if fence in ("sh", "bash", "console"):
            yield number, line.partition("#")[0].strip()
        elif fence == "":
            yield from ((number, name) for name in re.findall(r"(?<![\w./-])[a-z_]+\.[a-z_]+(?![\w./-])", line))
    yield from spans("\n".join(prose), 1)


def in_docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Spans in docstrings, those of attributes included; names that begin with a variable of the file
    (as an argument's attribute does) are not looked at."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    variables = {node.arg for node in nodes if isinstance(node, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from (
                (line, said)
                for line, said in spans(node.value.value, node.lineno)
                if said.partition(".")[0] not in variables
            )


def wrong(names: Iterator[tuple[int, str]], path: Path) -> list[str]:
    found = ((line, said, tree().missing(said)) for line, said in names if said not in ELSEWHERE)
    return [f"{path.relative_to(ROOT)}:{line}: `{said}`: {why}" for line, said, why in found if why]


def test_names_in_documents_exist() -> None:
    paths = [ROOT / name for name in tree().files if name.endswith(".md") and name not in HISTORY]
    missing = [line for path in paths for line in wrong(in_markdown(path), path)]
    assert not missing, "\n".join(missing)


def test_names_in_docstrings_exist() -> None:
    paths = [ROOT / name for name in tree().files if name.endswith(".py") and not name.startswith("proto/gen")]
    missing = [line for path in paths for line in wrong(in_docstrings(path), path)]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    "name",
    [
        "ordering.plan", "uic.core.commit.judgement", "core/commit.judgement", "mimn.state.Lists", "MimnConfig.bound",
        f"tests/unit/test_{NOTHING}.py", f"tests/unit/test_failure_table.py::test_{NOTHING}", f"docs/{NOTHING}/",
        f"models/configs/{NOTHING}.toml", f"{NOTHING}.py", f"{NOTHING}_of_ours", "make tset", "make load bugdets",
        "python -m loadtest.measure", "UIC_KAFAK__TOPIC", "UIC_KAFKA__TOPICS=x", f"CTR_{NOTHING.upper()}",
        f"uic_{NOTHING}_total",
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere_is_found(name: str) -> None:
    assert tree().missing(name)


@pytest.mark.parametrize(
    "name",
    [
        "uic.core.commit.judge", "core/commit.judge", "commit.judge", "mimn.state.Sketch", "MimnConfig.bounded_writes",
        "tests/unit/test_failure_table.py::test_every_scenario_has_a_row", "make load LOAD=--reduced",
        "make down && make up", ".venv/bin/python -m localstack demo", "UIC_KAFKA__TOPIC", "RTP_ACCESS__KEYS_FILE",
        "UIC_…", "CTR_KAFKA_BROKER", "uic_dead_letters_total", 'rtp_answers_total{code="overloaded"}', "docs/formats/",
        "mimn/nn/recurrence.cpp", "cleanup.policy", "broken_log", "application/json", "1/2", "/predict",
        "models/bundles/online-retail/1",
    ],
)  # fmt: skip
def test_a_name_that_exists_or_is_not_ours_passes(name: str) -> None:
    assert tree().missing(name) is None
