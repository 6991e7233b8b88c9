"""Files from the Hub and from URLs: resumed when a transfer breaks off, checked when they are there."""
