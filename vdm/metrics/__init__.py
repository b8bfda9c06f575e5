"""Feature networks, and the measures of sets of videos that are built on them."""
