"""What `profile` does with texts, images and sounds, in runs that can be interrupted: their lock, file and kept rows."""
