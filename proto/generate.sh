#!/usr/bin/env bash
# Regenerate the checked-in stubs of proto/gen from the .proto files; `make check` fails when they differ.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-gen}
python=${PYTHON:-python3}
"$python" -m grpc_tools.protoc -I. --python_out="$out" --pyi_out="$out" ctr/event/v1/behavior_event.proto ctr/uic/v1/uic_service.proto
"$python" -m grpc_tools.protoc -I. --grpc_python_out="$out" --mypy_grpc_out="$out" ctr/uic/v1/uic_service.proto
for package in ctr ctr/event ctr/event/v1 ctr/uic ctr/uic/v1; do : > "$out/$package/__init__.py"; done
: > "$out/ctr/py.typed"
