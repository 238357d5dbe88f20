"""The session daemon: decides what is recorded, where to, until when."""
