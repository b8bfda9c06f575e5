"""What a configuration needs and how fast it would be, on devices that need not be here."""
