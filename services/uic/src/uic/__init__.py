"""User Interest Center: folds behavior events into user states."""

import os

# gRPC's C core writes to stderr by itself, past `uic.logs`: a line for each failed handshake, so anyone who can connect
# fills the log, and a reader of stderr that hangs stops the port's threads. It reads this when grpc is first imported,
# and every module that imports grpc is below this package. An operator's own value stays.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
