"""The commands: `ctr archive`, `import`, `backfill`, `snapshot` and `namespaces`."""
