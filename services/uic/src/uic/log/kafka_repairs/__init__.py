"""All that reaches into kafka-python's private parts, each part behind an assumption that is checked before use. It is
one package because it is all: with another version of the library, this package must be read again, and nothing else.

Two kinds: what the library has no public way to (faster reading of batches, the log behind an open transaction), and
repairs of its faults, seen in 3.0.12:

* `clients.open_kafka_client`: a client that finds no broker leaves no thread and no open file. And a key with a
  passphrase is a connection that fails, and no question at the terminal.
* `connections.Manager`: a connection that cannot be made leaves no open socket, and why it failed is known; TLS has no
  longer than the connection; after one that ends before the first answer there is a pause; a broker that the client has
  not heard of is looked up before a request to it fails.
* `connections._QUESTIONS`: what any broker can answer is asked of another one, too, if one is gone or silent; so are
  fresh metadata, which the library waits for from one broker.
* `bootstrap.BootstrapServer`: a server that is silent does not keep a client from the next one, and is named.
* `transports._ReadsAll`: what a broker says before it ends a connection is read.

Another version of the library may move any of this, so `assumptions.check_client` names the assumptions that do not
hold. Decisions 187 and 211 say what each repair is for.
"""
