"""Images in: folders, archives, databases and named data sets, all as sequences of uint8 RGB items."""
