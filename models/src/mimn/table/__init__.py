"""The table of models: what trains its rows, keeps their records and renders `AUC.md`."""
