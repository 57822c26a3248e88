"""Events to clients: `hub` reads Redis once per process, `judge` says what is believed, `streams` feeds clients."""
