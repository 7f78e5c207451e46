"""The folding of the log into states: the commit protocol and its parts."""
