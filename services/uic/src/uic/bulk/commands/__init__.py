"""The commands: `uic archive`, `import`, `backfill`, `snapshot` and `namespaces`."""
