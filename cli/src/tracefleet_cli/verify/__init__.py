"""Do the books of a trace balance? Reads trace directories, never an event record."""
