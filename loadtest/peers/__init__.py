"""Services on other engines that do what RTP does for a request, each in a virtual environment of its own."""
