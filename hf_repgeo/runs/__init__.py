"""What `profile` does with texts, images and sounds, in runs that can be interrupted: lock, file and kept rows."""
