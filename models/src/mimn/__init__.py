"""MIMN: user state, model bundle, and the models that make them."""

import os

from mimn.interruption import quiet_in_main_program

# The wheels of onnxruntime come with telemetry that is switched on: they look up a server of Microsoft's, and keep a
# device id in the user's cache folder. onnxruntime reads this variable when it is first imported, wherever that is.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

quiet_in_main_program()
