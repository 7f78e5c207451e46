"""The command `ctr`: a thin front for the commands of the other packages. The import name `ctr` is the messages'."""

import sys

from ctr_cli.signals import end_at_once

if sys.argv[0].rpartition("/")[2] in ("ctr", "-m"):  # this process is the command, and not one that imports it
    end_at_once()
