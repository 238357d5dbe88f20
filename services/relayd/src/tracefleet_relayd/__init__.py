"""The relay daemon: keeps traces of other hosts, and serves them live."""
