"""How far labels can be trusted: what is known to be true, and the arithmetic on it."""
