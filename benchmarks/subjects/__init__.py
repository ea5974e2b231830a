"""One file per subject, each with a ``SUBJECT``; libraries are imported inside the competitors' functions."""
