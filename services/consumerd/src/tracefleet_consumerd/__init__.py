"""The consumer daemon: moves full sub-buffers into packets with their index entries."""
