"""The command line: `mycontainer`, in Docker's words."""
