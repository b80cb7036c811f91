"""What must not leave: secrets and personal data, one kind of thing a file. Each finds, none replaces."""
