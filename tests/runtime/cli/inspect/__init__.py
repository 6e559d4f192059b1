"""`edge-actors inspect`."""
