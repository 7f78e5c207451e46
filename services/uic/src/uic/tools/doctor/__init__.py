"""`ctr doctor`: checks a deployment with the settings that UIC would run with, and says what to fix.

What is asked is in `store_facts`, `log_facts` and `installation`; what the answers mean, in the files of checks, which
are pure: every check says what it saw and, unless that is good, what to do. FAIL means that UIC would stop, refuse to
start or write wrong states; WARN means that it works, but is less safe than it should be. A fact that could not be
gathered is None, and the check says so instead of passing.

It writes nothing to the log, joins no consumer group, and writes one thing to the store, which it deletes: a commit
that tries whether commits are taken.
"""
