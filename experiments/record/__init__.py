"""What a run leaves on disk while it goes on and when it ends."""
