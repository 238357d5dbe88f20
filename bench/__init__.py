"""Side-by-side measurements of Debian's LTTng-tools and tracefleet under the same program."""
