"""Runs of `profile` on texts, images and sounds, which can be interrupted and resumed: lock, file and kept rows."""
