"""The command `ctr`: a thin front for the commands of the other packages. The import name `ctr` is the messages'."""
