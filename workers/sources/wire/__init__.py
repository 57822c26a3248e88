"""How a server is reached: whom to trust, where a redirect leads, one connection, what an answer says."""
