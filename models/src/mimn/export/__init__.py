"""Export: writes a trained model as a bundle, or nothing if the computations of the model disagree.

    python -m mimn.export --run RUN_FOLDER --output bundles --name retail --version 1
    python -m mimn.export --run RUN_FOLDER_OF_DIEN --events 1000 --output bundles --name retail-dien --version 1
    python -m mimn.export --again OLD_BUNDLE --weights model.safetensors --output bundles --name retail --version 1
    python -m mimn.export --untrained --items 3600 --categories 40 --output bundles --name random --version 1

A run of DIN or DIEN becomes a bundle of kind `sequence`, whose states are lists of a user's last events. A run on
impressions takes its fields and its calibrator with it (`python -m mimn.impressions export` is the same command).

`--again` makes new graphs with the current code for a bundle that was exported before, and keeps its ids, fields,
calibrator and training record.

The untrained form has the sizes of a real bundle but meaningless scores: for load tests and for developing services.

parts  what all bundles have           recurrent, sequence  the two kinds
run    where trained models come from  untrained            models before any training
"""

from mimn.export.parts import ExportError, RunFacts
from mimn.export.recurrent import export_bundle
from mimn.export.run import export_again, export_any, export_run
from mimn.export.sequence import export_sequence

__all__ = [
    "ExportError",
    "RunFacts",
    "export_again",
    "export_any",
    "export_bundle",
    "export_run",
    "export_sequence",
]
