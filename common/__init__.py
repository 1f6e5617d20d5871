"""What every worker shares; imports no worker."""
