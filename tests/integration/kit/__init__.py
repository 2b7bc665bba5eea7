"""What the black-box tests share: an instance to start and stop, clients to call it with, and eyes for its audit log."""
