"""Work on whole partitions at once: archive and import of the log, backfill, snapshots. Commands that exit, never
imported by the service."""
