"""`ctr rollout`: moves traffic from one release to another, each step a job that exits.

desk         the record in the store: read, and replaced by compare-and-set (replace.lua)
namespaces   what the store has of a namespace
comparison   users of two namespaces, compared
gates        everything that must hold, looked at for one revision of the record
planning     what a rollout would cost, before anything is written
changes      what callers will notice of it
origins      where the new namespace's states come from
verbs        the subcommands
main         arguments, output and exit codes
"""
