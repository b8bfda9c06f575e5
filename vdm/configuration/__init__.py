"""Loading, overriding and storing the configuration of a command."""
